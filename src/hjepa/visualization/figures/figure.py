"""A figure with its title, caption and alternative text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.visualization.figures.style import Theme


@dataclass(frozen=True)
class Figure:
    """A figure that can be drawn in either theme.

    Attributes:
        name: file name without suffix.
        title: heading.
        caption: description of the content.
        look_for: what a reader should look for.
        alt: alternative text.
        draw: function that draws the figure in a theme.
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
        name: file name without suffix.
        title: heading.
        reason: why it is missing, as a sentence.
    """

    name: str
    title: str
    reason: str
