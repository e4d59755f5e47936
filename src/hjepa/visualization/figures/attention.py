"""Attention of the last block: where each head of one patch looks, and what all patches look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.config.grid import plane
from hjepa.models import VisionTransformer
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.heat import heat, strength
from hjepa.visualization.figures.picture_grid import Edge, PictureGrid
from hjepa.visualization.figures.style import Picture, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.models import Encoder
    from hjepa.visualization.shown import Shown

ROWS = 6
_MOST_HEADS = 6
_TITLE = "Attention of the last block"


def attention_figure(shown: Shown, encoder: Encoder) -> Figure | Omitted:
    """Attention weights of the last block for one patch per head, their mean, and the mean over all patches.

    Args:
        shown: the pictures; the first six are drawn.
        encoder: the trained encoder.
    """
    if not isinstance(encoder, VisionTransformer):
        return Omitted("attention", _TITLE, "This encoder is not a vision transformer, so it has no attention weights.")
    shown = shown.head(ROWS)
    grid = plane(encoder.geometry.grid)
    with torch.inference_mode():
        weights = encoder.attention(shown.normalised)[-1].cpu()
    query = central_cell(grid)
    heads = weights.shape[1]
    drawn = min(heads, _MOST_HEADS)
    rows = [
        _Row(
            picture,
            name,
            [*weights[i, :drawn, query], weights[i, :, query].mean(dim=0), weights[i].mean(dim=(0, 1))],
        )
        for i, (picture, name) in enumerate(zip(shown.pictures, shown.names, strict=True))
    ]
    titles = [f"head {i + 1}" for i in range(drawn)] + ["mean of heads", "all patches"]
    some = f" The first {drawn} of {heads} heads are shown; the means are over all." if drawn < heads else ""
    figure = _AttentionFigure(rows, titles, grid, query)
    return Figure(
        name="attention",
        title=_TITLE,
        caption=(
            f"{shown.what.capitalize()}, and where the last of {len(encoder.blocks)} blocks of the encoder looks. For the outlined patch: "
            "one map per head, and their mean. On the right, the attention that each patch receives, averaged over all "
            "patches and heads, which decides what enters the pooled features. Every map has its own scale from 0 (dark) to its "
            f"maximum (bright), given in multiples of an even spread over all {math.prod(grid)} patches; below 2\N{MULTIPLICATION SIGN} a map stays darker.{some} {shown.images.display_note()}"
        ).strip(),
        look_for=(
            "heads that look at different things, and maps that follow the object rather than the distance from the "
            "outlined patch. The same map in every picture is attention to positions; a maximum near 1\N{MULTIPLICATION SIGN} is attention to "
            "everything alike."
        ),
        alt=(
            f"{len(shown)} pictures, each beside {drawn} attention maps of single heads, their mean, and the mean over all "
            "patches."
        ),
        draw=figure.draw,
    )


def central_cell(grid: tuple[int, int]) -> int:
    """Row-major index of the cell at, or just after, the centre."""
    return grid[0] // 2 * grid[1] + grid[1] // 2


def cell_outline(cell: int, grid: tuple[int, int]) -> list[Edge]:
    """The four sides of a cell, as shares of the picture."""
    (row, column), (rows, columns) = divmod(cell, grid[1]), grid
    top, bottom = row / rows, (row + 1) / rows
    left, right = column / columns, (column + 1) / columns
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return list(zip(corners, corners[1:] + corners[:1], strict=True))


@dataclass(frozen=True)
class _Row:
    picture: Picture
    name: str
    maps: list[Tensor]


@dataclass(frozen=True)
class _AttentionFigure:
    rows: list[_Row]
    titles: list[str]
    grid: tuple[int, int]
    query: int

    def draw(self, theme: Theme) -> MatplotlibFigure:
        height, width = self.rows[0].picture.shape[:2]
        last = len(self.titles)
        canvas = PictureGrid(
            len(self.rows), 1 + last, height / width, theme, top=0.3, below=0.17, groups=(1, last - 1, last)
        )
        canvas.title(0, "image")
        for column, title in enumerate(self.titles, start=1):
            canvas.title(column, title, fit=True)
        for i, row in enumerate(self.rows):
            canvas.show(i, 0, row.picture)
            mark_cell(canvas, i, 0, self.query, self.grid)
            if row.name:
                canvas.label(i, 0, row.name, color=theme.muted)
            for column, values in enumerate(row.maps, start=1):
                canvas.show(i, column, heat(row.picture, values, self.grid))
                canvas.label(i, column, strength(values), color=theme.muted)
                if column < last:
                    mark_cell(canvas, i, column, self.query, self.grid)
        return canvas.figure


def mark_cell(canvas: PictureGrid, row: int, column: int, cell: int, grid: tuple[int, int]) -> None:
    """Outline a cell so that it is visible on bright and on dark pictures."""
    canvas.lines(row, column, cell_outline(cell, grid), color="#000000", width=2.6)
    canvas.lines(row, column, cell_outline(cell, grid), color="#ffffff", width=1.2)
