"""Health over the run: every measure per level with its limits, the light, and actions that were taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa.runs.records import Records, level_keys, series
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.style import Theme, new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.config import HealthConfig

_TITLE = "Health"
# Inches: a row of panels, the space for titles, the strip of the light.
_ROW, _GAP, _STRIP, _HEAD, _FOOT = 1.3, 0.58, 0.22, 0.42, 0.4
_LIGHTS = {"green": "#2fa36b", "amber": "#e0a100", "red": "#d2333c"}


@dataclass(frozen=True)
class _Measure:
    """A measure: its key in records, the heading, its limits (amber, red), and whether what it leaves of 1 counts."""

    key: str
    title: str
    limits: tuple[float, float]
    is_rest: bool = False


def health_figure(records: Records, limits: HealthConfig, level_names: list[str]) -> Figure | Omitted:
    """Measures of the features over the run.

    Args:
        records: all records of the run.
        limits: the ``health`` section.
        level_names: what each level is, for the legend.
    """
    if not level_keys(records.evaluations, "lidar") and not level_keys(records.evaluations, "rank"):
        return Omitted("health", _TITLE, "No online evaluation was recorded, so the features were never measured.")
    measures = [
        _Measure("rank", "Effective rank (RankMe)", limits.rank),
        _Measure("lidar", "LiDAR rank", limits.lidar),
        _Measure("std", "Spread between images", limits.spread),
        _Measure("cosine", "1 - cosine between images", limits.cosine, is_rest=True),
        _Measure("position", "Variance not explained by position", limits.position, is_rest=True),
    ]
    shown = [m for m in measures if records.untrained and level_keys(records.evaluations, m.key)]
    if not shown:
        return Omitted(
            "health", _TITLE, "The records do not have the measures of the untrained encoder to compare with."
        )
    figure = _HealthFigure(records, shown, level_names)
    last = next((r["health"] for r in reversed(records.evaluations) if "health" in r), None)
    acted = "; ".join(f"step {r['at']}: {', '.join(r['actions'])}" for r in records.health if r["actions"])
    return Figure(
        name="health",
        title=_TITLE,
        caption=(
            "Measures of the features of a fixed set of images at every online evaluation, divided by those of the untrained "
            "encoder. Dotted lines are the limits of amber and red (`health` in the configuration). The strip "
            f"below is the light of all records{f', {last} at the end' if last else ''}."
            + (f" Actions taken: {acted}." if acted else "")
        ),
        look_for=(
            "ranks above 1 that grow: the encoder distinguishes images in more directions than at random. Any curve near 0 is "
            "a collapse: all images have the same features, or features that depend on the position in the image alone."
        ),
        alt="Line charts of " + ", ".join(m.title.lower() for m in shown) + " per level, and the light over time.",
        draw=figure.draw,
    )


@dataclass(frozen=True)
class _HealthFigure:
    records: Records
    measures: list[_Measure]
    level_names: list[str]

    def draw(self, theme: Theme) -> MatplotlibFigure:
        rows = -(-len(self.measures) // 3)
        height = _HEAD + rows * (_ROW + _GAP) + _STRIP + _FOOT
        figure = new_figure(height, theme)
        left, gap = 0.055, 0.075
        width = (0.985 - left - 2 * gap) / 3
        end = 1.01 * max(float(r["epoch"]) for r in self.records.train + self.records.evaluations)
        for place, measure in enumerate(self.measures):
            row, column = divmod(place, 3)
            top = height - _HEAD - row * (_ROW + _GAP) - 0.2
            axes = figure.add_axes((left + column * (width + gap), (top - _ROW) / height, width, _ROW / height))
            plain_axes(axes, theme, measure.title)
            self._paint(axes, measure, theme)
            axes.set_xlim(0, end)
        strip = figure.add_axes((left, _FOOT / height, 0.985 - left, _STRIP / height))
        self._strip(strip, theme, end)
        self._legend(figure, theme)
        return figure

    def _paint(self, axes: Axes, measure: _Measure, theme: Theme) -> None:
        before: dict[str, Any] = self.records.untrained or {}
        highest = 0.0
        for level, key in enumerate(level_keys(self.records.evaluations, measure.key)):
            x, y = series(self.records.evaluations, key, "epoch")
            start = before.get(key)
            normal = None if start is None else 1 - start if measure.is_rest else start
            if not normal:
                continue
            x, y = [0.0, *x], [1.0, *((1 - value if measure.is_rest else value) / normal for value in y)]
            axes.plot(x, y, color=theme.levels[level], linewidth=1.4, marker="o", markersize=3)
            highest = max([highest, *y])
        for limit, light in zip(measure.limits, ("amber", "red"), strict=True):
            axes.axhline(limit, color=_LIGHTS[light], linewidth=1.1, linestyle=(0, (1, 1.5)))
        axes.set_ylim(0, 1.12 * max(highest, *measure.limits))

    def _strip(self, axes: Axes, theme: Theme, end: float) -> None:
        """The light of every record, as a band of colour; actions as marks on it."""
        lit = [r for r in self.records.train + self.records.evaluations if "health" in r]
        lit.sort(key=lambda r: float(r["epoch"]))
        start = 0.0
        for record in lit:
            stop = float(record["epoch"])
            axes.axvspan(start, stop, color=_LIGHTS[record["health"]], linewidth=0)
            start = stop
        for record in self.records.health:
            axes.axvline(float(record["epoch"]), color=theme.text, linewidth=1.5)
        axes.set_xlim(0, end)
        axes.set_yticks([])
        axes.tick_params(colors=theme.muted, labelsize=8, length=3, width=0.8)
        axes.set_xlabel("epoch", fontsize=8, color=theme.muted)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_facecolor(theme.background)

    def _legend(self, figure: MatplotlibFigure, theme: Theme) -> None:
        from matplotlib.lines import Line2D

        levels = [
            Line2D([], [], color=theme.levels[i], linewidth=2.2, label=name) for i, name in enumerate(self.level_names)
        ]
        figure.legend(
            handles=levels, loc="upper left", bbox_to_anchor=(0.06, 1.0), ncols=4, frameon=False, fontsize=8.5,
            labelcolor=theme.text, handlelength=1.6, columnspacing=1.8,
        )  # fmt: skip
