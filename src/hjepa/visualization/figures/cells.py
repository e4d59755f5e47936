"""Cells of a level as parts of a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hjepa.config.grid import plane
from hjepa.visualization.figures.style import Picture

if TYPE_CHECKING:
    from hjepa.config import Geometry

_UNSEEN = 0.22


def cell_box(geometry: Geometry, level: int, cell: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a cell covers."""
    grid = plane(geometry.level_grid(level))
    height, width = (side // count for side, count in zip(geometry.height_width, grid, strict=True))
    row, column = divmod(cell, grid[1])
    return slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)


def seen_part(picture: Picture, context: Tensor, geometry: Geometry) -> Picture:
    """A picture with all tokens dark that the context encoder does not see.

    Args:
        picture: uint8 [H, W, 3].
        context: bool [tokens].
        geometry: sizes of the model.
    """
    patch = plane(geometry.patch)
    mask = context.numpy().reshape(plane(geometry.grid))
    large = mask.repeat(patch[0], axis=0).repeat(patch[1], axis=1)[..., None]
    return np.where(large, picture, (_UNSEEN * picture).astype(np.uint8))


def with_cells(
    picture: Picture, geometry: Geometry, level: int, cells: Tensor, part: Callable[[int], Picture]
) -> Picture:
    """A darkened grey picture in which some cells are replaced.

    Args:
        picture: uint8 [H, W, 3].
        geometry: sizes of the model.
        level: of the cells.
        cells: int64 [n], row-major.
        part: the pixels of the i-th of these cells, uint8 [h, w, 3].
    """
    result = np.repeat((0.35 * picture.mean(axis=2, keepdims=True)).astype(np.uint8), 3, axis=2)
    for i, cell in enumerate(cells.tolist()):
        result[cell_box(geometry, level, cell)] = part(i)
    return result
