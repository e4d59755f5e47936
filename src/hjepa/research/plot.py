"""Plot of a study: a dot for every run, means with intervals, and paired differences."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from hjepa.research.summary import MEASURES, read_split
from hjepa.visualization.figures.style import LIGHT, Theme, new_figure, plain_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches.
_ROW, _HEAD, _FOOT, _LABELS, _GAP = 0.34, 0.75, 0.75, 2.3, 0.3
_NAME_WIDTH = 34


def draw_study(results: dict[str, Any], theme: Theme = LIGHT) -> bytes | None:
    """PNG with a row per cell; None before the first run is done.

    The first panel shows all levels together (at the same depths for every cell if the study sets them), the second the
    last level alone, the third the paired differences of the first.
    """
    rows = [row for row in results["cells"] if row["mean"]]
    if not rows:
        return None
    kind = "linear_probe" if any("linear_probe/all" in row["mean"] for row in rows) else "rank"
    if kind == "rank":
        measures = ["rank"]
    else:
        main = "linear_probe/depths" if results["depths"] else "linear_probe/all"
        measures = [main, "linear_probe/last"]
    differences = measures[0] if any(measures[0] in row["difference"] for row in rows) else None
    panels = len(measures) + (differences is not None)
    height = _HEAD + _ROW * len(rows) + _FOOT
    width = 9.0
    figure = new_figure(height, theme, width=width)
    figure.text(0.1 / width, 1 - 0.16 / height, results["title"], fontsize=10.5, color=theme.text, va="top")
    each = (width - _LABELS - _GAP * panels) / panels
    for number in range(panels):
        left = _LABELS + number * (each + _GAP)
        box = (left / width, _FOOT / height, each / width, _ROW * len(rows) / height)
        axes = figure.add_axes(box)
        if number < len(measures):
            _values(axes, rows, measures[number], results, theme)
        else:
            assert differences is not None
            _differences(axes, rows, differences, theme)
        _rows(axes, rows, theme, named=number == 0)
    repeated = any(row["mean"][measures[0]]["low"] is not None for row in rows if measures[0] in row["mean"])
    bars = "Dots are seeds, bars 95 % intervals of the mean" if repeated else "One seed: no intervals"
    note = f"{bars}. Equal {results['budget'].replace('flop', 'FLOP')} in every cell, read on {read_split(results)}"
    if differences:
        note += f"; differences are those of the left panel, paired, from {results['reference']!r}"
    figure.text(0.1 / width, 0.1 / height, note + ".", fontsize=7.5, color=theme.muted, va="bottom")
    return to_png(figure)


def _rows(axes: Axes, rows: list[dict[str, Any]], theme: Theme, *, named: bool) -> None:
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)))
    # Names of cells often differ at the end, so they are wrapped to two lines rather than cut.
    names = ["\n".join(textwrap.wrap(row["name"], _NAME_WIDTH, max_lines=2, placeholder="…")) for row in rows]
    axes.set_yticklabels(names if named else [], color=theme.text, fontsize=8)
    axes.grid(axis="x", color=theme.line, linewidth=0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _values(axes: Axes, rows: list[dict[str, Any]], key: str, results: dict[str, Any], theme: Theme) -> None:
    scale = 1.0 if key == "rank" else 100.0
    name = "Effective rank" if key == "rank" else MEASURES[key].capitalize() + ", %"
    plain_axes(axes, theme, name)
    for position, row in enumerate(rows):
        found = row["mean"].get(key)
        if found is None:
            continue
        color = theme.other if row["name"] == results["reference"] else theme.same
        seeds = [scale * run[key] for run in row["runs"] if key in run]
        axes.plot(seeds, [position] * len(seeds), "o", color=color, markersize=3.5, alpha=0.55, markeredgewidth=0)
        if found["low"] is not None:
            axes.plot([scale * found["low"], scale * found["high"]], [position] * 2, color=theme.text, linewidth=1.2)
        axes.plot(scale * found["mean"], position, "|", color=theme.text, markersize=11, markeredgewidth=1.8)
    _controls(axes, key, results, theme)


def _controls(axes: Axes, key: str, results: dict[str, Any], theme: Theme) -> None:
    scores = (results["controls"] or {}).get(key.partition("/")[0], {})
    reading = {"all": "untrained", "last": "untrained_last", "depths": "untrained_depths"}.get(
        key.partition("/")[2], ""
    )
    there = sorted(
        (100 * scores[name], label) for name, label in ((reading, "untrained"), ("pixels", "pixels")) if name in scores
    )
    # Labels of close lines would overlap, so the lower one goes to the left of its line and the higher one to the right.
    # Without a run of the reference there are no controls.
    sides = ((), ("center",), ("right", "left"))[len(there)]
    for (x, label), side in zip(there, sides, strict=True):
        axes.axvline(x, color=theme.muted, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.annotate(
            label, (x, 0), xycoords=("data", "axes fraction"), xytext=(0, -15), textcoords="offset points",
            ha=side, va="top", fontsize=7, color=theme.muted, annotation_clip=False,
        )  # fmt: skip


def _differences(axes: Axes, rows: list[dict[str, Any]], key: str, theme: Theme) -> None:
    plain_axes(axes, theme, "Difference, points" if key != "rank" else "Difference")
    scale = 1.0 if key == "rank" else 100.0
    axes.axvline(0, color=theme.muted, linewidth=1)
    for position, row in enumerate(rows):
        found = row["difference"].get(key)
        if found is None:
            continue
        if found["low"] is not None:
            axes.plot([scale * found["low"], scale * found["high"]], [position] * 2, color=theme.same, linewidth=1.6)
        axes.plot(scale * found["mean"], position, "o", color=theme.same, markersize=5)
