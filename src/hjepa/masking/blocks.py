"""Rectangles on a grid, drawn for a whole batch at once from uniform random numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Uniform = NDArray[np.float32]
Box = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

RANDOMS_PER_BLOCK = 4


def block_sizes(
    u_scale: Uniform,
    u_aspect: Uniform,
    grid: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heights and widths, in cells and not yet rounded, of blocks with random area and aspect ratio.

    Area and (logarithm of the) aspect ratio come from *separate* uniform numbers, so that they are independent.

    Args:
        u_scale, u_aspect: uniform numbers in [0, 1) of any common shape.
        grid: rows and columns.
        scale: smallest and largest area as a share of the grid.
        aspect: smallest and largest height over width.
    """
    area = (scale[0] + u_scale * (scale[1] - scale[0])) * grid[0] * grid[1]
    ratio = np.exp(np.log(aspect[0]) + u_aspect * (np.log(aspect[1]) - np.log(aspect[0])))
    return np.sqrt(area * ratio), np.sqrt(area / ratio)


def place_blocks(
    height: NDArray[np.float64],
    width: NDArray[np.float64],
    u_row: Uniform,
    u_column: Uniform,
    grid: tuple[int, int],
) -> Box:
    """Round sizes to cells and place blocks uniformly; the last row and column are reachable.

    A block longer than the grid is cut to it and made wider (or the other way round), so that it keeps its area.

    Returns:
        top, left, height, width as int64 arrays; each block lies inside the grid.
    """
    rows, columns = grid
    area = height * width
    width = np.where(height > rows, area / rows, width)
    height = np.where(width > columns, area / columns, height)
    h = np.clip(np.rint(height), 1, rows).astype(np.int64)
    w = np.clip(np.rint(width), 1, columns).astype(np.int64)
    top = np.floor(u_row * (rows - h + 1)).astype(np.int64)
    left = np.floor(u_column * (columns - w + 1)).astype(np.int64)
    return top, left, h, w


def cover(box: Box, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells inside at least one of the blocks of a row.

    Args:
        box: arrays [B, M].

    Returns:
        bool [B, rows * columns].
    """
    # Images along the last axis: every operation then runs over long contiguous rows.
    top, left, h, w = (part.T.astype(np.int32, order="C")[:, None] for part in box)  # [M, 1, B]
    r = np.arange(grid[0], dtype=np.int32)[:, None]
    c = np.arange(grid[1], dtype=np.int32)[:, None]
    in_rows = (r >= top) & (r < top + h)  # [M, rows, B]
    in_columns = (c >= left) & (c < left + w)  # [M, columns, B]
    covered = np.zeros((*grid, top.shape[-1]), dtype=bool)
    for m in range(len(top)):  # over blocks, not images: the array of all of them is never built
        covered |= in_rows[m, :, None] & in_columns[m, None]
    return np.ascontiguousarray(covered.reshape(-1, top.shape[-1]).T)
