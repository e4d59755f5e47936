"""The tables of a report: the trained encoder against its controls, and every level by itself."""

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
        text: the number; nothing where it was not measured.
        tone: ``up``, ``down`` or ``even`` for a difference.
        bar: length of the bar before the number, per cent.
    """

    text: str | None = None
    tone: str = ""
    bar: str | None = None


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        title: its heading.
        cells: from the first row to the last.
        style: classes of ``report.css`` for the heading and the cells.
    """

    title: str
    cells: list[Cell]
    style: str = "num"


@dataclass(frozen=True)
class Table:
    """A table, column by column.

    Attributes:
        caption: heading of the table.
        corner: heading of the rows' names.
        rows: names of the rows.
        columns: the rest.
        leveled: rows are levels, finest first, and carry their colours.
    """

    caption: str
    corner: str
    rows: list[str]
    columns: list[Column]
    leveled: bool = False


def controls_table(evidence: Evidence) -> Table | None:
    """Accuracy and effective rank of every representation; nothing where nothing was measured."""
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
        columns.append(Column("Trained ahead by", ahead))
    columns.append(Column("Effective rank", [_number(rank.get(who)) for who in rows]))
    several = len(rank.get("levels") or []) > 1
    caption = "Against controls, all levels together" if several else "Against controls"
    return Table(caption + _read_on(results), "Features", list(rows.values()), columns)


def levels_table(evidence: Evidence, geometry: Geometry, targets: tuple[int, ...]) -> Table:
    """What each level is, what it knows alone, and how it differs from the next.

    Args:
        evidence: the numbers.
        geometry: sizes of the model.
        targets: cells predicted per level.
    """
    levels = range(len(geometry.levels))
    results = evidence.results or {}
    columns = [
        Column("Cells", [Cell(times(*geometry.level_grid(level))) for level in levels], "text"),
        Column("Predicted", [Cell(str(targets[level])) for level in levels]),
    ]
    for title, scores in _readings(results):
        entries: dict[int, dict[str, Any]] = {entry["level"]: entry for entry in scores.get("levels") or []}
        alone = [entries.get(level, {}) for level in levels]
        ahead = [_difference(entry.get("trained"), entry.get("untrained")) for entry in alone]
        columns.append(Column(f"{title}, %", [_points(entry.get("trained")) for entry in alone], "num whole"))
        columns.append(Column("Ahead of untrained", ahead))
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
    """The readings that were made: title and scores."""
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
    # A minus sign, not a hyphen, so that columns line up.
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
