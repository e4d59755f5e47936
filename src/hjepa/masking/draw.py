"""Draw blocks on a grid and choose cells, for a whole batch at once, from given uniform random numbers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hjepa.config import Grid

RANDOM_BITS = 24
"""Bits of a random number."""

Uniform = NDArray[np.float32]


class Box(NamedTuple):
    """Blocks: first cell and number of cells along each axis, int64 [B, M, axes] each."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]


def randoms_per_block(axes: int) -> int:
    """Random numbers per block: size, aspect ratio (not on one axis), and a position along each axis."""
    return axes + 1 + (axes > 1)


def block_axes(grid: Grid) -> tuple[int, ...]:
    """The axes along which blocks have a size and a position; along the others they span the grid.

    Signals: time. Images: rows and columns. Clips: rows and columns, so that a hidden cell is hidden in all frames and
    cannot be copied from the previous one (tubes: VideoMAE, arXiv:2203.12602; V-JEPA, arXiv:2404.08471); time if a cell
    is as large as a frame.
    """
    if len(grid) == 3:
        return (1, 2) if math.prod(grid[1:]) > 1 else (0,)
    return tuple(range(len(grid)))


def block_sizes(
    u_scale: Uniform, u_aspect: Uniform, grid: Grid, scale: tuple[float, float], aspect: tuple[float, float]
) -> tuple[NDArray[np.floating[Any]], ...]:
    """Sizes of blocks in cells, not yet rounded, with random area and aspect ratio.

    Area and (logarithm of the) aspect ratio come from *separate* uniform numbers, so that they are independent. A block
    taller than the grid is clipped and widened (or the other way round), so that it keeps its area.

    Args:
        u_scale, u_aspect: uniform numbers in [0, 1) of any common shape.
        grid: sizes along the `block_axes`, one or two.
        scale: smallest and largest area as a share of the grid.
        aspect: smallest and largest height over width; unused on one axis.

    Returns:
        sizes along each of these axes.
    """
    area = scale[0] + u_scale * (scale[1] - scale[0])
    for side in grid:
        area = area * side
    if len(grid) == 1:
        return (np.minimum(area, grid[0]),)
    rows, columns = grid
    ratio = np.exp(np.log(aspect[0]) + u_aspect * (np.log(aspect[1]) - np.log(aspect[0])))
    height, width = np.sqrt(area * ratio), np.sqrt(area / ratio)
    area = height * width
    width = np.where(height > rows, area / rows, width)
    return np.where(width > columns, area / columns, height), width


def draw_blocks(u: Uniform, grid: Grid, scale: tuple[float, float], aspect: tuple[float, float]) -> Box:
    """Blocks of random size, placed uniformly; the last cell of every axis is reachable.

    Args:
        u: uniform numbers in [0, 1), [B, M, randoms_per_block].
        grid: cells along each axis.
        scale: smallest and largest share of the grid that a block covers.
        aspect: smallest and largest height over width.

    Returns:
        blocks inside the grid.
    """
    moving = block_axes(grid)
    sizes = np.empty((*u.shape[:-1], len(grid)), dtype=np.int64)
    sizes[...] = grid
    drawn = block_sizes(u[..., 0], u[..., min(1, len(grid) - 1)], tuple(grid[axis] for axis in moving), scale, aspect)
    for axis, size in zip(moving, drawn, strict=True):
        sizes[..., axis] = np.clip(np.rint(size), 1, grid[axis])
    return Box(place(u[..., -len(grid) :], np.array(grid) - sizes), sizes)


def place(u: Uniform, room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Uniform integers from 0 to ``room``, inclusive."""
    places: NDArray[np.int64] = np.floor(u * (room + 1)).astype(np.int64)
    return places


def cover(box: Box, grid: Grid) -> NDArray[np.bool_]:
    """Cells inside at least one block of each row of the batch.

    Returns:
        bool [B, cells], row-major.
    """
    # Images along the last axis, so that every operation runs over long contiguous rows.
    starts, sizes = (part.T.astype(np.int32, order="C") for part in box)  # [axes, M, B]
    within = []
    for axis, count in enumerate(grid):
        first, end = starts[axis][:, None], (starts[axis] + sizes[axis])[:, None]
        cell = np.arange(count, dtype=np.int32)[:, None]
        shape = [1] * len(grid)
        shape[axis] = count
        inside = (cell >= first) & (cell < end)  # [M, count, B]
        within.append(inside.reshape(len(inside), *shape, -1))
    covered = np.zeros((*grid, starts.shape[-1]), dtype=bool)
    for block in zip(*within, strict=True):  # block by block, so that the array of all blocks is never built
        both = block[0]
        for inside in block[1:]:
            both = both & inside
        covered |= both
    return np.ascontiguousarray(covered.reshape(-1, covered.shape[-1]).T)


def choose(preference: NDArray[np.uint8], random: NDArray[np.uint32], count: int) -> NDArray[np.bool_]:
    """Choose ``count`` cells per row by class of preference (0 first), at random within a class.

    Preference and random number are packed into one 32-bit key. The largest chosen key is found by partition, which is
    much less work than sorting. Ties go to the smaller index.

    Args:
        preference: small integers [B, N], below 256.
        random: uniform integers below 2**24, [B, N].
        count: cells to take per row, 1 to N.

    Returns:
        bool [B, N], with ``count`` true entries in every row.
    """
    keys = preference.astype(np.uint32)
    keys <<= RANDOM_BITS
    keys |= random
    last = np.partition(keys, count - 1, axis=1)[:, count - 1 : count]
    chosen = keys <= last
    if np.count_nonzero(chosen) > count * len(chosen):
        # Two keys tie at the boundary, about once in some thousand batches.
        tied = keys == last
        surplus = chosen.sum(axis=1, keepdims=True) - count
        from_the_end = tied[:, ::-1].cumsum(axis=1)[:, ::-1]
        chosen &= ~(tied & (from_the_end <= surplus))
    return chosen


def indices(chosen: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Ascending indices [B, count] of the true entries of [B, N]; every row must have ``count`` of them."""
    rows, cells = chosen.shape
    found = np.flatnonzero(chosen).reshape(rows, count)
    found -= cells * np.arange(rows)[:, None]
    return found
