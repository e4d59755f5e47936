"""A figure with its words: what the report shows and what is written as a PNG file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.visualization.figures.style import Theme


@dataclass(frozen=True)
class Figure:
    """A figure, ready to be drawn in either theme.

    Attributes:
        name: file name without suffix.
        title: heading.
        caption: what is shown.
        look_for: what a reader should look for in it.
        alt: the figure in words, for those who cannot see it.
        draw: draws it.
    """

    name: str
    title: str
    caption: str
    look_for: str
    alt: str
    draw: Callable[[Theme], MatplotlibFigure]


@dataclass(frozen=True)
class Omitted:
    """A figure that could not be drawn.

    Attributes:
        name: file name that it would have had, without suffix.
        title: heading.
        reason: why, as a sentence.
    """

    name: str
    title: str
    reason: str
