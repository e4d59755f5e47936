"""Style of all figures: a light and a dark theme with colours that colour-blind readers can distinguish.

Figures use matplotlib's object interface on the Agg canvas, without windows or global state.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

Picture = NDArray[np.uint8]
"""[H, W, 3]."""

DPI = 150
WIDTH = 9.0
"""Width of every figure in inches, the same for all so that text has the same size."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Attributes:
        name: ``light`` or ``dark``.
        background, text, muted, line: colours of page, text, secondary text, axes and grid.
        levels: one colour per level, finest first (after Okabe and Ito's palette), as many as `model.levels` allows.
        classes: colours for classes.
        same, other: colours for matching and for other items.
    """

    name: str
    background: str
    text: str
    muted: str
    line: str
    levels: tuple[str, ...]
    classes: tuple[str, ...]
    same: str
    other: str


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1f2328",
    muted="#59636e",
    line="#d1d9e0",
    levels=("#0072b2", "#d55e00", "#009e73", "#aa3377", "#8a6d00", "#6a51c7", "#6f6f6f", "#2f9fd8"),
    classes=(
        "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00",
        "#56b4e9", "#999933", "#882255", "#6f6f6f", "#332288",
    ),
    same="#0072b2",
    other="#b0b8c0",
)  # fmt: skip
DARK = Theme(
    name="dark",
    background="#14171c",
    text="#e6e9ed",
    muted="#9aa4af",
    line="#353c45",
    levels=("#56b4e9", "#f0883e", "#2fc49a", "#e083b8", "#d9c64a", "#9a8cf0", "#a8a8a8", "#a5d8ff"),
    classes=(
        "#56b4e9", "#e69f00", "#2fc49a", "#e083b8", "#f0703a",
        "#a5d8ff", "#c8c85a", "#d0648f", "#a8a8a8", "#9a8cf0",
    ),
    same="#56b4e9",
    other="#59636e",
)  # fmt: skip


def new_figure(height: float, theme: Theme, *, width: float = WIDTH) -> MatplotlibFigure:
    """An empty figure on the Agg canvas, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(width, height), dpi=DPI, facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: MatplotlibFigure) -> bytes:
    """Encode a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    # Without the creation date and the program version, which would make equal figures differ.
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: MatplotlibFigure) -> bytes:
    """Encode a figure as SVG, with text as outlines; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "hjepa"}):
        figure.savefig(buffer, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None})
    return buffer.getvalue()


def plain_axes(axes: Axes, theme: Theme, title: str) -> None:
    """Style axes for a chart: two spines, a faint grid along y, the title on the left."""
    axes.set_facecolor(theme.background)
    axes.set_title(title, loc="left", fontsize=9.5, color=theme.text, pad=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(theme.line)
    axes.tick_params(colors=theme.muted, labelsize=8, length=3, width=0.8)
    axes.grid(axis="y", color=theme.line, linewidth=0.6)
    axes.set_axisbelow(True)
