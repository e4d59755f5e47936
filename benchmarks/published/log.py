"""The log of the search for the recipe: its rows from ``recipe/log.yaml`` and the files that it names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from benchmarks.published.readings import FOUR_DEPTHS, Published, Reading
from benchmarks.published.text import change, points, table
from benchmarks.published.work import flop_per_image

HEADER = (
    "#", "hypothesis (prediction)", "linear: depths / last", "k-NN-20", "rank", "GFLOP", "compared with", "decision", "repeatable",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What a row found.

    Attributes:
        linear: linear probe on the depths that are compared, per cent.
        last: on the last level alone.
        knn: k-NN-20 on the depths.
        rank: effective rank of the features, where it was measured.
        reading: everything else, where a file has it.
        link: Markdown that leads to the file.
    """

    linear: float
    last: float
    knn: float
    rank: float | None
    reading: Reading | None = None
    link: str = ""


class Log:
    """The rows by their number.

    Args:
        published: the files.
    """

    def __init__(self, published: Published) -> None:
        self.published = published
        text = (published.root / "recipe" / "log.yaml").read_text(encoding="utf-8")
        self.sections: list[dict[str, Any]] = yaml.safe_load(text)["sections"]
        self._found: dict[str, Figures] = {}

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows."""
        return {row["id"]: row for section in self.sections for row in section["rows"]}

    def figures(self, number: str) -> Figures:
        """What a row found; read once."""
        if number not in self._found:
            self._found[number] = self._read(self.rows[number])
        return self._found[number]

    def reading(self, number: str) -> Reading:
        """The model of a row.

        Raises:
            ValueError: no file has it.
        """
        found = self.figures(number).reading
        if found is None:
            raise ValueError(f"{number}: no file has its configuration")
        return found

    def difference(self, number: str, other: str, part: str = "linear") -> float:
        """How much better one row is than another, in points of ``linear``, ``last`` or ``knn``."""
        return float(getattr(self.figures(number), part) - getattr(self.figures(other), part))

    def markdown(self) -> str:
        """All sections with their tables."""
        parts = []
        for section in self.sections:
            rows = [self._line(row) for row in section["rows"]]
            about = " ".join(section["about"].split())
            parts += [f"## {section['title']}", about, table(HEADER, rows, left=(0, 1, 6, 7, 8))]
        return "\n\n".join(parts)

    def _read(self, row: dict[str, Any]) -> Figures:
        if "copied" in row:
            return Figures(*row["copied"])
        if "results" in row:
            found = self.published.json(row["results"])
            linear, knn = found["linear_probe"], found["knn"]
            last = linear["levels"][-1]["trained"]
            link = str(row["results"])
            return Figures(
                100 * linear["trained"], 100 * last, 100 * knn["trained"], found["rank"]["trained"], None, link
            )
        if "study" in row:
            reading = self.published.cell(row["study"], row["cell"])
            link = f"recipe/{row['study']}.json"
        else:
            # Rows of the full length are compared at the depths of four levels, others at their own levels.
            depths = FOUR_DEPTHS if row["id"].startswith("F") else ()
            reading = self.published.run(row["run"], depths)
            link = f"{row['run']}/results.json"
        return Figures(reading.linear, reading.last, reading.knn, reading.rank, reading, link)

    def _line(self, row: dict[str, Any]) -> list[str]:
        number = row["id"]
        found = self.figures(number)
        asked = row["asks"] + (f" ({row['predicted']})" if row.get("predicted") else "")
        linear = f"{points(found.linear)} / {points(found.last)}"
        return [
            number,
            f'<a id="{number.lower()}"></a>{asked}',
            f"[{linear}]({found.link})" if found.link else f"{linear}, by hand",
            points(found.knn),
            "" if found.rank is None else f"{found.rank:.0f}",
            _work(found.reading),
            self._against(row),
            row["decision"],
            _again(row, found.reading),
        ]

    def _against(self, row: dict[str, Any]) -> str:
        other = row.get("against")
        if other is None:
            return ""
        parts = {part: change(self.difference(row["id"], other, part)) for part in ("linear", "last", "knn")}
        return f"{other}: {parts['linear']} / {parts['last']}; {parts['knn']}"


def _work(reading: Reading | None) -> str:
    if reading is None or reading.today is None:
        return ""
    return f"{flop_per_image(reading.today, reading.processes) / 1e9:.2f}"


def _again(row: dict[str, Any], reading: Reading | None) -> str:
    """Whether the row can be repeated with the current code."""
    if "gone" in row:
        return f"no: {row['gone']}"
    if reading is not None and reading.config["loss"]["type"] == "infonce":
        return "nearly"
    return "yes"
