"""The tables of a report: the trained encoder against its controls, and every level by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa.health.evidence import Evidence
from hjepa.visualization.report.markup import escape, tag
from hjepa.visualization.report.summary import times

if TYPE_CHECKING:
    from hjepa.config import Geometry

_NONE = '<span class="none" title="not measured">\N{EN DASH}</span>'
_ROWS = (
    ("trained", "Trained encoder"),
    ("untrained", "Untrained encoder (step 0)"),
    ("pca", "PCA of pixels"),
    ("pixels", "Raw pixels"),
)


@dataclass(frozen=True)
class _Column:
    title: str
    scores: dict[str, Any]


def _columns(results: dict[str, Any]) -> list[_Column]:
    columns = []
    probe, knn = results.get("linear_probe", {}), results.get("knn", {})
    if "trained" in probe:
        columns.append(_Column("Linear probe", probe))
    if "trained" in knn:
        columns.append(_Column(f"k-NN-{knn.get('k', 20)}", knn))
    return columns


def controls_table(evidence: Evidence) -> str:
    """Accuracy and effective rank of every representation; empty where nothing was measured."""
    results = evidence.results or {}
    columns = _columns(results)
    rank = results.get("rank", {})
    if not columns and "trained" not in rank:
        return ""
    head = ['<th scope="col">Features</th>']
    for column in columns:
        head.append(
            f'<th scope="col" class="num"><span class="whole">{escape(column.title)}, %</span></th><th scope="col" class="num">Trained ahead by</th>'
        )
    head.append('<th scope="col" class="num">Effective rank</th>')
    body = []
    for key, label in _ROWS:
        if not columns and key in ("pca", "pixels"):
            continue
        cells = [f'<th scope="row">{label}</th>']
        for column in columns:
            value = column.scores.get(key)
            cells.append(_bar(value))
            cells.append(_NONE_CELL if key == "trained" else _difference(column.scores.get("trained"), value))
        cells.append(_number(rank.get(key)))
        body.append(f"<tr{' class=ours' if key == 'trained' else ''}>{''.join(cells)}</tr>")
    chance = results.get("chance")
    if columns and isinstance(chance, float):
        cells = ['<th scope="row">Chance</th>']
        for column in columns:
            cells += [_bar(chance), _difference(column.scores.get("trained"), chance)]
        body.append(f"<tr>{''.join(cells)}{_NONE_CELL}</tr>")
    several = len(rank.get("levels") or []) > 1
    caption = "Against controls, all levels together" if several else "Against controls"
    read = f" (accuracy on {results.get('split', 'test')} images)" if columns else ""
    return _table(caption + read, head, body)


_NONE_CELL = f'<td class="num">{_NONE}</td>'


def levels_table(evidence: Evidence, geometry: Geometry, targets: tuple[int, ...]) -> str:
    """What each level is, what it knows alone, and how it differs from the next."""
    results = evidence.results or {}
    columns = _columns(results)
    ranks, before = evidence.ranks(), evidence.ranks("untrained")
    cka = results.get("cka") or []
    ratios = evidence.loss_over_chance()
    several = len(geometry.levels) > 1
    head = ['<th scope="col">Level</th><th scope="col">Cells</th><th scope="col" class="num">Predicted</th>']
    for column in columns:
        head.append(
            f'<th scope="col" class="num"><span class="whole">{escape(column.title)}, %</span></th><th scope="col" class="num">Ahead of untrained</th>'
        )
    if ranks:
        head.append('<th scope="col" class="num">Effective rank</th>')
    if before:
        head.append('<th scope="col" class="num">Untrained rank</th>')
    if ratios:
        head.append('<th scope="col" class="num">Loss / chance</th>')
    if any(share is not None for share in evidence.position):
        head.append('<th scope="col" class="num">Position share</th>')
    if several and len(cka) == len(geometry.levels):
        head.append('<th scope="col" class="num">CKA to next</th>')
    body = []
    for level, plan in enumerate(geometry.levels):
        cells = [
            f'<th scope="row"><span class="key level{level}"></span>{level}: block {plan.depth}</th>',
            f"<td>{times(*geometry.level_grid(level))}</td>",
            f'<td class="num">{targets[level]}</td>',
        ]
        for column in columns:
            entry: dict[str, Any] = next((e for e in column.scores.get("levels") or [] if e["level"] == level), {})
            trained = entry.get("trained")
            cells.append(_number(None if trained is None else 100 * trained))
            cells.append(_difference(trained, entry.get("untrained")))
        if ranks:
            cells.append(_number(ranks.get(level)))
        if before:
            cells.append(_number(before.get(level)))
        if ratios:
            cells.append(_percent(ratios.get(level)))
        if any(share is not None for share in evidence.position):
            cells.append(_percent(evidence.position[level]))
        if several and len(cka) == len(geometry.levels):
            cells.append(_number(cka[level][level + 1] if level + 1 < len(cka) else None, digits=2))
        body.append(f"<tr>{''.join(cells)}</tr>")
    read = f" (accuracy on {results.get('split', 'test')} images)" if columns else ""
    return _table("Each level alone" + read, head, body)


def _table(caption: str, head: list[str], body: list[str]) -> str:
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    # Wide tables scroll by themselves on small screens; the focus lets a keyboard do it.
    return tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _bar(value: float | None) -> str:
    if value is None:
        return _NONE_CELL
    return f'<td class="num"><span class="bar" style="--share:{100 * value:.1f}%"></span>{100 * value:.1f}</td>'


def _difference(ours: float | None, control: float | None) -> str:
    if ours is None or control is None:
        return _NONE_CELL
    value = round(100 * (ours - control), 1)
    kind = "up" if value > 0 else "down" if value < 0 else "even"
    # A minus sign, not a hyphen, so that columns line up.
    text = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if value else "0.0"
    return f'<td class="num {kind}">{text}</td>'


def _number(value: float | None, digits: int = 1) -> str:
    return _NONE_CELL if value is None else f'<td class="num">{value:.{digits}f}</td>'


def _percent(value: float | None) -> str:
    return _NONE_CELL if value is None else f'<td class="num">{value:.0%}</td>'
