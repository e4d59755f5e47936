"""The tables of a report: the trained encoder compared with its controls, and each level alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa.health.evidence import Evidence
from hjepa.visualization.report.summary import times

if TYPE_CHECKING:
    from hjepa.config import Geometry

_ENCODERS = {"trained": "Trained encoder", "untrained": "Untrained encoder (step 0)"}
_PIXELS = {"pca": "PCA of pixels", "pixels": "Raw pixels"}


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        text: the number; None if it was not measured.
        tone: ``up``, ``down`` or ``even`` for a difference.
        bar: length of the bar before the number, in per cent.
    """

    text: str | None = None
    tone: str = ""
    bar: str | None = None


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        title: heading of the column.
        cells: the numbers, top to bottom.
        style: CSS classes of ``report.css`` for heading and cells.
    """

    title: str
    cells: list[Cell]
    style: str = "num"


@dataclass(frozen=True)
class Table:
    """A table by columns.

    Attributes:
        caption: heading of the table.
        corner: heading of the row names.
        rows: names of the rows.
        columns: the columns after the row names.
        leveled: whether rows are levels, finest first, marked with their colours.
    """

    caption: str
    corner: str
    rows: list[str]
    columns: list[Column]
    leveled: bool = False


def controls_table(evidence: Evidence) -> Table | None:
    """Accuracy and effective rank of the trained encoder and its controls; None if nothing was measured."""
    results = evidence.results or {}
    rank = results.get("rank", {})
    readings = list(_readings(results))
    if not readings and "trained" not in rank:
        return None
    chance = {"chance": results.get("chance")}
    rows = _ENCODERS | (_PIXELS if readings else {})
    if readings and isinstance(chance["chance"], float):
        rows["chance"] = "Chance"
    columns = []
    for title, reading in readings:
        scores = reading | chance
        ahead = [Cell() if who == "trained" else _difference(scores["trained"], scores.get(who)) for who in rows]
        columns.append(Column(f"{title}, %", [_bar(scores.get(who)) for who in rows], "num whole"))
        columns.append(Column("Gain of trained", ahead))
    columns.append(Column("Effective rank", [_number(rank.get(who)) for who in rows]))
    several = len(rank.get("levels") or []) > 1
    caption = "Against controls, all levels together" if several else "Against controls"
    return Table(caption + _read_on(results), "Features", list(rows.values()), columns)


def levels_table(evidence: Evidence, geometry: Geometry, targets: tuple[int, ...] | None) -> Table:
    """Size, accuracy, rank and loss of each level alone, and its similarity to the next.

    Args:
        evidence: the numbers.
        geometry: sizes of the model.
        targets: cells predicted per level; None if the method predicts none.
    """
    levels = range(len(geometry.levels))
    results = evidence.results or {}
    columns = [Column("Cells", [Cell(times(*geometry.level_grid(level))) for level in levels], "text")]
    if targets is not None:
        columns.append(Column("Predicted", [Cell(str(targets[level])) for level in levels]))
    for title, scores in _readings(results):
        entries: dict[int, dict[str, Any]] = {entry["level"]: entry for entry in scores.get("levels") or []}
        alone = [entries.get(level, {}) for level in levels]
        ahead = [_difference(entry.get("trained"), entry.get("untrained")) for entry in alone]
        columns.append(Column(f"{title}, %", [_points(entry.get("trained")) for entry in alone], "num whole"))
        columns.append(Column("Gain over untrained", ahead))
    cka = results.get("cka") or []
    optional: list[tuple[str, Mapping[int, float | None], Callable[[float | None], Cell]]] = [
        ("Effective rank", evidence.ranks(), _number),
        ("Untrained rank", evidence.ranks("untrained"), _number),
        ("Loss / chance", evidence.loss_over_chance(), _percent),
        ("Position share", {i: s for i, s in enumerate(evidence.position) if s is not None}, _percent),
        ("CKA to next", {i: cka[i][i + 1] for i in levels[:-1]} if len(cka) == len(levels) else {}, _hundredths),
    ]
    columns += [Column(title, [cell(found.get(i)) for i in levels]) for title, found, cell in optional if found]
    return Table(
        "Each level alone" + _read_on(results),
        "Level",
        [f"{i}: block {level.depth}" for i, level in enumerate(geometry.levels)],
        columns,
        leveled=True,
    )


def _readings(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and scores of linear probe and k-NN, as far as they were made."""
    probe, knn = results.get("linear_probe", {}), results.get("knn", {})
    if "trained" in probe:
        yield "Linear probe", probe
    if "trained" in knn:
        yield f"k-NN-{knn.get('k', 20)}", knn


def _read_on(results: dict[str, Any]) -> str:
    return f" (accuracy on {results.get('split', 'test')} images)" if any(_readings(results)) else ""


def _bar(value: float | None) -> Cell:
    return Cell() if value is None else Cell(f"{100 * value:.1f}", bar=f"{100 * value:.1f}")


def _difference(ours: float | None, control: float | None) -> Cell:
    if ours is None or control is None:
        return Cell()
    value = round(100 * (ours - control), 1)
    # A minus sign instead of a hyphen, so that columns are aligned.
    text = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if value else "0.0"
    return Cell(text, tone="up" if value > 0 else "down" if value < 0 else "even")


def _points(value: float | None) -> Cell:
    return Cell(None if value is None else f"{100 * value:.1f}")


def _number(value: float | None) -> Cell:
    return Cell(None if value is None else f"{value:.1f}")


def _hundredths(value: float | None) -> Cell:
    return Cell(None if value is None else f"{value:.2f}")


def _percent(value: float | None) -> Cell:
    return Cell(None if value is None else f"{value:.0%}")
