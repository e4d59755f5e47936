"""How much levels have in common: CKA as a heat map, within one encoder and between two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hjepa.metrics import cka_matrix
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.style import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

_TITLE = "Similarity of levels"
_COLOURS = "cividis"
# Inches.
_CELL, _LEFT, _TOP, _BOTTOM, _BETWEEN, _RIGHT = 0.62, 1.1, 0.35, 0.55, 1.25, 0.15


def cka_figure(
    trained: Sequence[Tensor],
    other: Sequence[Tensor],
    *,
    other_name: str = "untrained",
    what: str = "held-out images",
) -> Figure | Omitted:
    """Linear CKA between the levels of an encoder, and between them and those of another.

    Args:
        trained: per level pooled features [N, D].
        other: the same of another encoder on the same images: the untrained one, or that of another run.
        other_name: what to call it.
        what: the images in a few words.
    """
    count = len(trained[0])
    if count < 3:
        return Omitted("cka", _TITLE, f"There are only {count} image(s); a comparison of features needs at least 3.")
    matrix = cka_matrix([*trained, *other]).numpy()
    levels = len(trained)
    panels = [
        _Panel("between levels, trained", matrix[:levels, :levels], "level", "level"),
        _Panel(f"trained and {other_name}", matrix[:levels, levels:], "trained, level", f"{other_name}, level"),
    ]
    width = max(level.shape[1] for level in [*trained, *other])
    few = f" With {count} images for {width} dimensions, all values are too high." if count < 2 * width else ""
    figure = _CkaFigure(panels)
    return Figure(
        name="cka",
        title=_TITLE,
        caption=(
            f"Linear CKA (arXiv:1905.00414) of pooled features of {count:,} {what}: 1 if two levels hold the same "
            f"information up to rotation and scale, 0 if they have nothing in common. Left, the levels of the trained encoder; right, "
            f"the same against the {other_name} encoder.{few}"
        ),
        look_for=(
            "values that fall with the distance between levels. Levels with 0.95 or more are nearly copies of each other. "
            f"High values against the {other_name} encoder mean that training changed little at this level."
            if other_name == "untrained"
            else "values that fall with the distance between levels, and high values on the diagonal of the right panel: there "
            "both runs learned the same."
        ),
        alt="; ".join(f"heat map {panel.title}: {panel.spoken()}" for panel in panels) + ".",
        draw=figure.draw,
    )


@dataclass(frozen=True)
class _Panel:
    title: str
    values: NDArray[np.float64]
    down: str
    across: str

    def spoken(self) -> str:
        """Smallest and largest value, for readers who do not see the map."""
        known = self.values[np.isfinite(self.values)]
        return f"from {known.min():.2f} to {known.max():.2f}" if len(known) else "no values"


@dataclass(frozen=True)
class _CkaFigure:
    panels: list[_Panel]

    def draw(self, theme: Theme) -> MatplotlibFigure:
        rows = max(panel.values.shape[0] for panel in self.panels)
        widths = [_CELL * panel.values.shape[1] for panel in self.panels]
        height = _TOP + _CELL * rows + _BOTTOM
        # Room for the titles, which may be wider than a panel of few levels.
        widths_with_titles = [max(width, 1.9) for width in widths]
        width = _LEFT + sum(widths_with_titles) + _BETWEEN * (len(self.panels) - 1) + _RIGHT
        figure = new_figure(height, theme, width=width)
        left = _LEFT
        for panel, inches, taken in zip(self.panels, widths, widths_with_titles, strict=True):
            tall = _CELL * panel.values.shape[0]
            axes = figure.add_axes((left / width, (height - _TOP - tall) / height, inches / width, tall / height))
            _draw_panel(axes, panel, theme)
            left += taken + _BETWEEN
        return figure


def _draw_panel(axes: Axes, panel: _Panel, theme: Theme) -> None:
    from matplotlib import colormaps

    axes.set_facecolor(theme.other)
    axes.imshow(panel.values, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
    axes.set_title(panel.title, loc="left", fontsize=9, color=theme.text, pad=6)
    for side, count, label in (("x", panel.values.shape[1], panel.across), ("y", panel.values.shape[0], panel.down)):
        axis = getattr(axes, f"{side}axis")
        axis.set_ticks(range(count), [str(i) for i in range(count)])
        axis.set_label_text(label, fontsize=8, color=theme.muted)
    axes.tick_params(colors=theme.muted, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (row, column), value in np.ndenumerate(panel.values):
        if math.isfinite(value):
            red, green, blue, _ = colormaps[_COLOURS](float(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text, color = f"{value:.2f}", "#ffffff" if dark else "#000000"
        else:
            text, color = "\N{EN DASH}", theme.text
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
