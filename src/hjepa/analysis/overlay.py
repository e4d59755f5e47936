"""Curves of several runs in one figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hjepa.analysis.comparison import Compared
from hjepa.analysis.history import chance_levels, loss_terms
from hjepa.runs.records import series
from hjepa.visualization.figures.style import Theme, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

_ROW, _GAP, _TOP, _BOTTOM = 1.85, 0.75, 0.3, 0.45
_STYLES: tuple[tuple[int, tuple[int, ...] | None], ...] = ((0, None), (0, (5, 2)), (0, (1, 1)))
_COLORS = 8

Points = tuple[list[float], list[float]]


def overlay(runs: Sequence[Compared], theme: Theme) -> MatplotlibFigure:
    """Online k-NN over epochs and over time, losses, effective rank, gradients and speed of all runs."""
    panels: list[tuple[str, str, Callable[[Compared], Points], bool]] = [
        ("Online k-NN, %", "epoch", lambda run: _scaled(_evaluated(run, "knn", "epoch"), 100), False),
        ("Online k-NN, %", "minutes", lambda run: _minutes(_scaled(_evaluated(run, "knn", "time"), 100)), False),
        ("Effective rank, all levels", "epoch", lambda run: _evaluated(run, "rank", "epoch"), False),
        ("Loss over chance, mean of levels", "epoch", _over_chance, False),
        ("Loss", "epoch", lambda run: series(run.history.records.train, "loss", "epoch"), True),
        ("Gradient norm", "epoch", lambda run: series(run.history.records.train, "grad_norm", "epoch"), True),
    ]
    shown = [panel for panel in panels if any(panel[2](run)[0] for run in runs)]
    lines = -(-len(runs) // 4)
    rows = -(-len(shown) // 3)
    height = _TOP + 0.2 * lines + rows * (_ROW + _GAP) + _BOTTOM - _GAP + 0.3
    figure = new_figure(height, theme)
    for place, (title, x_label, points, logarithmic) in enumerate(shown):
        row, column = divmod(place, 3)
        top = height - _TOP - 0.2 * lines - 0.3 - row * (_ROW + _GAP)
        axes = figure.add_axes((0.05 + column * 0.325, (top - _ROW) / height, 0.275, _ROW / height))
        plain_axes(axes, theme, title)
        _paint(axes, runs, points, theme, logarithmic)
        axes.set_xlabel(x_label, fontsize=8, color=theme.muted)
    _legend(figure, runs, theme)
    return figure


def _paint(
    axes: Axes, runs: Sequence[Compared], points: Callable[[Compared], Points], theme: Theme, logarithmic: bool
) -> None:
    lowest, highest = [], []
    for place, run in enumerate(runs):
        x, y = points(run)
        if not x:
            continue
        lowest.append(min(y))
        highest.append(max(y))
        axes.plot(
            x, y, color=color(theme, place), linestyle=_style(place), linewidth=1.4,
            marker="o" if len(x) < 12 else None, markersize=3,
        )  # fmt: skip
    if logarithmic and min(lowest, default=0) > 0 and max(highest) > 5 * min(lowest):
        axes.set_yscale("log")
    elif not logarithmic:
        axes.set_ylim(0, 1.1 * max(highest, default=1) or 1)
    axes.set_xlim(left=0)


def _legend(figure: MatplotlibFigure, runs: Sequence[Compared], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color(theme, place), linestyle=_style(place), linewidth=2, label=run.name)
        for place, run in enumerate(runs)
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.04, 1.0), ncols=min(4, len(handles)), frameon=False,
        fontsize=8.5, labelcolor=theme.text, handlelength=2.4, columnspacing=1.8,
    )  # fmt: skip


def color(theme: Theme, place: int) -> str:
    """Colour of a run; after eight runs they repeat with another line style."""
    return theme.levels[place % _COLORS]


def _style(place: int) -> Any:
    return _STYLES[place // _COLORS % len(_STYLES)]


def _evaluated(run: Compared, key: str, x: str) -> Points:
    return series([r for r in run.history.records.evaluations if x in r], key, x)


def _scaled(points: Points, factor: float) -> Points:
    return points[0], [factor * value for value in points[1]]


def _minutes(points: Points) -> Points:
    return [value / 60 for value in points[0]], points[1]


def _over_chance(run: Compared) -> Points:
    x, y = [], []
    for record in run.history.records.train:
        terms = loss_terms(record)
        shares = [terms[name] / level for name, level in chance_levels(record).items() if level > 0 and name in terms]
        if shares:
            x.append(float(record.get("epoch", record["step"])))
            y.append(min(3.0, sum(shares) / len(shares)))
    return x, y
