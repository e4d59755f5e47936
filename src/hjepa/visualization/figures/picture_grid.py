"""A figure of pictures in rows and columns, with titles, labels, frames and lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hjepa.visualization.figures.style import WIDTH, Picture, Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches.
_GAP, _WIDE, _SIDE = 0.06, 0.22, 0.02
_LARGEST_CELL, _TALLEST_CELL = 1.7, 2.4
_TITLE_PAD, _LABEL_PAD = 4 / 72, 3 / 72
_TITLE_SIZE, _LABEL_SIZE = 8.0, 6.5
# The title of a column may extend a little into the gaps beside its pictures.
_TITLE_OVER = 1.08
# Pictures up to this side are drawn with visible square pixels.
_SMALL_PICTURE = 96

Edge = tuple[tuple[float, float], tuple[float, float]]
"""((x, y), (x, y)) as shares of a picture's width and height, from its upper left corner."""


class PictureGrid:
    """Pictures of equal shape in rows and columns.

    All pictures share one axes. With separate axes, matplotlib spends about 50 ms per picture on ticks that are not
    drawn.

    Args:
        rows, columns: number of rows and columns.
        aspect: height over width of a picture.
        theme: colours.
        top: inches for the titles of columns.
        below: inches under each picture for its label.
        groups: columns that start a new group, separated by a wider gap.

    Attributes:
        figure: the figure.
        cell: width and height of a picture in inches.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        aspect: float,
        theme: Theme,
        *,
        top: float = 0.3,
        below: float = 0.0,
        groups: Sequence[int] = (),
    ) -> None:
        gaps = [_WIDE if column in groups else _GAP for column in range(1, columns)]
        # Limit the size of pictures if there are few columns.
        width = min((WIDTH - 2 * _SIDE - sum(gaps)) / columns, _LARGEST_CELL, _TALLEST_CELL / aspect)
        height = width * aspect
        self.cell = width, height
        self._theme = theme
        self._lefts = [_SIDE + column * width + sum(gaps[:column]) for column in range(columns)]
        self._tops = [top + row * (height + below + _GAP) for row in range(rows)]
        whole = self._lefts[-1] + width + _SIDE, self._tops[-1] + height + below + _SIDE
        self.figure = new_figure(whole[1], theme, width=whole[0])
        axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        # In inches from the upper left corner. Pictures and lines must not change these limits.
        axes.set_xlim(0, whole[0])
        axes.set_ylim(whole[1], 0)
        axes.set_autoscale_on(False)
        self._axes = axes

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Upper left corner of a picture: x and y in inches, from the upper left corner of the figure."""
        return self._lefts[column], self._tops[row]

    def show(self, row: int, column: int, picture: Picture, *, squares: bool | None = None) -> None:
        """Draw a picture.

        Args:
            row, column: its position.
            picture: uint8 [H, W, 3].
            squares: draw its pixels as squares; by default if it is small and therefore enlarged.
        """
        (x, y), (width, height) = self.corner(row, column), self.cell
        small = max(picture.shape[:2]) <= _SMALL_PICTURE if squares is None else squares
        self._axes.imshow(
            picture,
            aspect="auto",
            extent=(x, x + width, y + height, y),
            interpolation="nearest" if small else "antialiased",
        )

    def title(
        self, column: int, text: str, *, color: str | None = None, strong: bool = False, fit: bool = False
    ) -> None:
        """Write the title of a column; with ``fit`` the font shrinks to the width of the column."""
        x, y = self.corner(0, column)
        title = self._axes.text(
            x + self.cell[0] / 2,
            y - _TITLE_PAD,
            text,
            ha="center",
            va="baseline",
            fontsize=_TITLE_SIZE,
            color=color or self._theme.muted,
            fontweight="bold" if strong else "normal",
            linespacing=1.25,
        )
        if fit:
            over = title.get_window_extent().width / self.figure.dpi / self.cell[0]
            title.set_fontsize(min(_TITLE_SIZE, _TITLE_SIZE * _TITLE_OVER / over))

    def label(self, row: int, column: int, text: str, *, color: str, strong: bool = False) -> None:
        """Write a label under a picture."""
        x, y = self.corner(row, column)
        self._axes.text(
            x + self.cell[0] / 2,
            y + self.cell[1] + _LABEL_PAD,
            text,
            ha="center",
            va="top",
            fontsize=_LABEL_SIZE,
            color=color,
            fontweight="bold" if strong else "normal",
        )

    def frame(self, row: int, column: int, color: str) -> None:
        """Draw a frame around a picture."""
        from matplotlib.patches import Rectangle

        corner = self.corner(row, column)
        self._axes.add_patch(Rectangle(corner, *self.cell, fill=False, edgecolor=color, linewidth=2, clip_on=False))

    def lines(
        self, row: int, column: int, edges: Sequence[Edge], *, color: str, width: float, alpha: float = 1.0
    ) -> None:
        """Draw lines on a picture.

        Args:
            row, column: which picture.
            edges: the lines.
            color: of all of them.
            width: in points.
            alpha: opacity, 0 to 1.
        """
        from matplotlib.collections import LineCollection

        (left, top), (across, down) = self.corner(row, column), self.cell
        placed = [[(left + x * across, top + y * down) for x, y in edge] for edge in edges]
        self._axes.add_collection(
            LineCollection(placed, colors=[color], linewidths=width, alpha=alpha, capstyle="round")
        )
