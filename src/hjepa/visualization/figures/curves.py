"""Training curves, with every loss beside its chance level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa.runs.records import Records, level_keys, series
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.style import Theme, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# In inches. The panels of the losses are in two columns, the others in three.
_TALL, _SHORT, _HEAD, _TITLE, _FOOT = 1.75, 1.2, 0.4, 0.62, 0.4
# Levels per line of the legend, and the height of each further line.
_ACROSS, _LEGEND_LINE = 4, 0.2
_BELOW_CHANCE = (
    "a loss that falls below its chance level, which is the loss of always predicting the mean target. A loss at its chance "
    "level predicts nothing specific to the image; a chance level that falls to zero along with the loss indicates collapse, "
    "not success. k-NN and effective rank should rise together."
)
_WITHOUT_CHANCE = (
    "k-NN and effective rank that rise together. A loss that falls while the effective rank falls towards 1 indicates "
    "collapse, not success."
)
_REGULARISERS = {"variance": "variance", "covariance": "covariance", "sliced_gaussian": "sliced Gaussian"}


def curves_figure(records: Records, level_names: list[str], step: int, command: str) -> Figure | Omitted:
    """Draw the training curves of a run.

    Args:
        records: all records of the run.
        level_names: names of the levels, for the legend.
        step: step of the checkpoint; marked if there are later records.
        command: command that continues training, for a run without records.
    """
    title = "Training curves"
    if not records.train and not records.evaluations:
        reason = f"The run folder has no training records (metrics.jsonl is missing or empty). To create some, run {command}."
        return Omitted("curves", title, reason)
    course = _Course(records, level_names, step)
    points = len(records.train)
    few = f" Only {points} logging interval{'s' if points != 1 else ''} so far." if points < 3 else ""
    mark = " The vertical line marks the checkpoint that the rest of this report shows." if course.mark else ""
    return Figure(
        name="curves",
        title=title,
        caption=f"Quantities logged during training, over {course.axis_label}.{mark}{few}",
        look_for=_BELOW_CHANCE if course.has_levels else _WITHOUT_CHANCE,
        alt=course.describe(),
        draw=course.draw,
    )


_Panel = tuple[str, Callable[["Axes", Theme], None]]
"""Title of a panel and the function that draws it."""


@dataclass(frozen=True)
class _Course:
    records: Records
    level_names: list[str]
    step: int

    @property
    def x(self) -> str:
        last = max((r.get("epoch", 0.0) for r in self.records.train + self.records.evaluations), default=0.0)
        return "epoch" if last >= 1 else "step"

    @property
    def axis_label(self) -> str:
        return "epochs" if self.x == "epoch" else "optimiser steps"

    def _end(self) -> float:
        """The right end of every panel."""
        return 1.01 * max(float(r.get(self.x, 0.0)) for r in self.records.train + self.records.evaluations)

    @property
    def mark(self) -> float | None:
        """Position of the checkpoint on the x axis, if there are later records."""
        everything = self.records.train + self.records.evaluations
        if not everything or max(r["step"] for r in everything) <= self.step:
            return None
        per_epoch = self.records.steps_per_epoch
        return self.step / per_epoch if self.x == "epoch" and per_epoch else float(self.step)

    def draw(self, theme: Theme) -> MatplotlibFigure:
        from matplotlib.ticker import MaxNLocator

        main, rest = self._main_panels(), self._panels()
        rows = ([_TALL] if main else []) + [_SHORT] * -(-len(rest) // 3)
        handles = self._legend(theme)
        lines = -(-len(handles) // _ACROSS)
        head = _HEAD + (lines - 1) * _LEGEND_LINE
        height = head + sum(rows) + (len(rows) - 1) * _TITLE + 0.25 + _FOOT
        figure = new_figure(height, theme)
        right = self._end()
        top = height - head - 0.25
        for row, inches in enumerate(rows):
            members, columns = (main, 2) if main and row == 0 else (rest, 3)
            start = 0 if members is main else 3 * (row - bool(main))
            for column, (title, paint) in enumerate(members[start : start + columns]):
                left, gap = 0.055, 0.075 if columns == 3 else 0.07
                width = (0.985 - left - gap * (columns - 1)) / columns
                box = (left + column * (width + gap), (top - inches) / height, width, inches / height)
                axes = figure.add_axes(box)
                plain_axes(axes, theme, title)
                paint(axes, theme)
                axes.set_xlim(0, right)
                if self.x == "epoch":
                    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=right > 4))
                if self.mark is not None:
                    axes.axvline(self.mark, color=theme.muted, linewidth=0.8, linestyle=(0, (1, 2)))
                if row == len(rows) - 1 or start + column + columns >= len(members) > columns:
                    axes.set_xlabel(self.x, fontsize=8, color=theme.muted)
            top -= inches + _TITLE
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.06, 1.0), ncols=-(-len(handles) // lines), frameon=False,
            fontsize=8.5, labelcolor=theme.text, handlelength=1.6, columnspacing=1.8,
        )  # fmt: skip
        return figure

    def describe(self) -> str:
        """The curves in words, as alternative text."""
        parts = []
        for level, key in enumerate(level_keys(self.records.train, "loss")):
            _, losses = series(self.records.train, key)
            _, chances = series(self.records.train, f"chance/level_{level}")
            if losses and chances:
                parts.append(f"level {level} loss {losses[-1]:.3g} at the end with chance level {chances[-1]:.3g}")
        _, total = series(self.records.train, "loss")
        if total and not self.has_levels:
            parts.append(f"loss from {total[0]:.3g} to {total[-1]:.3g}")
        _, knn = series(self.records.evaluations, "knn")
        if knn:
            parts.append(f"online k-NN from {knn[0]:.1%} to {knn[-1]:.1%}")
        _, rank = series(self.records.evaluations, "rank")
        if rank:
            parts.append(f"effective rank from {rank[0]:.3g} to {rank[-1]:.3g}")
        return "Line charts over training: " + ("; ".join(parts) or "no level was logged") + "."

    # -- panels --------------------------------------------------------------------------------------------------

    @property
    def has_levels(self) -> bool:
        """Whether the method records a loss for each level, rather than the total alone."""
        return bool(level_keys(self.records.train, "loss"))

    def _main_panels(self) -> list[_Panel]:
        if not self.has_levels:
            return []
        return [
            ("Loss per level (solid) and its chance level (dashed)", self._losses),
            ("Loss as a share of its chance level", self._ratios),
        ]

    def _panels(self) -> list[_Panel]:
        train, evaluations = self.records.train, self.records.evaluations
        panels: list[_Panel] = []
        if not self.has_levels and _has(train, "loss"):
            panels.append(("Loss", self._single("loss")))
        if _has(evaluations, "knn"):
            panels.append(("Online k-NN on a split of train, %", self._knn))
        if level_keys(evaluations, "rank"):
            panels.append(("Effective rank (RankMe)", self._ranks))
        if any(_has(train, key) for key in _REGULARISERS):
            panels.append(("Regularisers, unweighted", self._regularisers))
        if _has(train, "grad_norm"):
            panels.append(("Gradient norm before clipping", self._single("grad_norm")))
        if _has(train, "lr"):
            exponent = math.floor(math.log10(max(series(train, "lr")[1]) or 1))
            panels.append((f"Learning rate, $10^{{{exponent}}}$", self._single("lr", scale=10.0**-exponent)))
        if _has(train, "momentum"):
            panels.append(("EMA momentum", self._single("momentum")))
        if _has(train, "images_per_second"):
            panels.append(("Images per second", self._single("images_per_second", floor=True)))
        if _has(train, "data_wait"):
            panels.append(("Waiting for data, % of the time", self._single("data_wait", scale=100, floor=True)))
        return panels

    def _losses(self, axes: Axes, theme: Theme) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        train = self.records.train
        values: list[float] = []
        for level, key in enumerate(level_keys(train, "loss")):
            color = theme.levels[level]
            for name, style in ((f"chance/level_{level}", (0, (3, 2))), (key, "solid")):
                x, y = series(train, name, self.x)
                axes.plot(x, y, color=color, linestyle=style, linewidth=1.4, marker=_marker(x), markersize=3)
                values += y
        if values and min(values) > 0:
            axes.set_yscale("log")
            span = max(values) / min(values)
            ticks = (1.0,) if span > 30 else (1.0, 2.0, 5.0) if span > 6 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
            axes.yaxis.set_major_locator(LogLocator(subs=ticks))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())

    def _ratios(self, axes: Axes, theme: Theme) -> None:
        train = self.records.train
        highest = 1.0
        for level, key in enumerate(level_keys(train, "loss")):
            rows = [r | {"ratio": r[key] / r[f"chance/level_{level}"]} for r in train if r.get(f"chance/level_{level}")]
            x, y = series(rows, "ratio", self.x)
            axes.plot(x, y, color=theme.levels[level], linewidth=1.4, marker=_marker(x), markersize=3)
            highest = max([highest, *y])
        axes.axhline(1, color=theme.muted, linewidth=1, linestyle=(0, (3, 2)))
        # The first steps may be far above chance; show the range below it.
        axes.set_ylim(0, min(highest * 1.05, 1.6))
        axes.annotate(
            "chance", (0.985, 1), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
            ha="right", fontsize=7.5, color=theme.muted,
        )  # fmt: skip

    def _knn(self, axes: Axes, theme: Theme) -> None:
        x, y = series(self.records.evaluations, "knn", self.x)
        axes.plot(x, [100 * v for v in y], color=theme.text, linewidth=1.4, marker="o", markersize=3.5)
        axes.set_ylim(0, 112 * max(y) or 1)

    def _ranks(self, axes: Axes, theme: Theme) -> None:
        evaluations, before = self.records.evaluations, self.records.untrained
        for level, key in enumerate(level_keys(evaluations, "rank")):
            # The untrained encoder was measured on the same images before the first step.
            x, y = series([*([before] if before else []), *evaluations], key, self.x)
            axes.plot(x, y, color=theme.levels[level], linewidth=1.4, marker="o", markersize=3.5)
        axes.set_ylim(0, 1.12 * axes.dataLim.y1 or 1)

    def _regularisers(self, axes: Axes, theme: Theme) -> None:
        styles = ("solid", (0, (4, 2)), (0, (1, 1)))
        for (key, label), style, marker in zip(_REGULARISERS.items(), styles, "os^", strict=True):
            x, y = series(self.records.train, key, self.x)
            if x:
                shape = marker if _marker(x) else None
                axes.plot(
                    x, y, color=theme.text, linestyle=style, linewidth=1.2, marker=shape, markersize=3, label=label
                )
        axes.set_ylim(0, 1.12 * axes.dataLim.y1 or 1)
        axes.legend(frameon=False, fontsize=7.5, labelcolor=theme.text, loc="best", handlelength=1.8)

    def _single(self, key: str, *, scale: float = 1.0, floor: bool = False) -> Callable[[Axes, Theme], None]:
        def paint(axes: Axes, theme: Theme) -> None:
            x, y = series(self.records.train, key, self.x)
            axes.plot(x, [scale * v for v in y], color=theme.text, linewidth=1.2, marker=_marker(x), markersize=3)
            axes.ticklabel_format(axis="y", useOffset=False, style="plain")
            if floor:
                axes.set_ylim(0, 1.12 * scale * max(y) or 1)

        return paint

    def _legend(self, theme: Theme) -> list[Any]:
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], color=theme.levels[i], linewidth=2.2, label=name) for i, name in enumerate(self.level_names)
        ]


def _has(records: list[dict[str, Any]], key: str) -> bool:
    return bool(series(records, key)[0])


def _marker(x: list[float]) -> str | None:
    """Dots if there are too few points for a visible line."""
    return "o" if len(x) < 4 else None
