"""From encoder taps to levels: pooling on the token grid, and the parent cells on a coarser level."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from hjepa.config import Geometry, Grid, PerAxis
from hjepa.config.grid import cells, per_axis


def pool_cells(tokens: Tensor, grid: Grid, stride: PerAxis) -> Tensor:
    """Average cells of ``stride`` tokens along each axis of the grid (never along the raster sequence).

    Args:
        tokens: [B, N, D], row-major.
        grid: tokens along each axis.
        stride: for all axes, or one per axis; each divides the grid.

    Returns:
        [B, cells, D], row-major; [B, 1, D] for stride 0, the whole input.
    """
    if stride == 0:
        return tokens.mean(dim=1, keepdim=True)
    if stride == 1:
        return tokens
    B, _, D = tokens.shape
    split = [side for pair in zip(cells(grid, stride), per_axis(stride, len(grid)), strict=True) for side in pair]
    within = tuple(range(2, 2 + len(split), 2))
    return tokens.reshape(B, *split, D).mean(dim=within).reshape(B, -1, D)


def parent_cells(index: Tensor, grid: Grid, coarser: Grid) -> Tensor:
    """The cell of a coarser level that contains each cell of a level.

    Args:
        index: int64 row-major indices on ``grid``, of any shape.
        grid: cells of the level along each axis.
        coarser: those of the coarser level; each number divides that of ``grid``.

    Returns:
        row-major indices on ``coarser``, of the same shape.
    """
    parent, place = torch.zeros_like(index), 1
    for count, fewer in zip(reversed(grid), reversed(coarser), strict=True):
        parent += index % count // (count // fewer) * place
        index = index // count
        place *= fewer
    return parent


def level_features(taps: dict[int, Tensor], geometry: Geometry) -> list[Tensor]:
    """The features of every level, finest first, from an encoder's taps of *all* tokens.

    Args:
        taps: depth -> [B, N, D].

    Returns:
        per level [B, cells of that level, D].
    """
    return [pool_cells(taps[level.depth], geometry.grid, level.stride) for level in geometry.levels]


def batch_mean(features: Tensor, *, alone: bool = False) -> Tensor:
    """Mean over the images of the batch, across all processes.

    Args:
        features: [B, cells, D], without gradient.
        alone: average this process's images only.

    Returns:
        [1, cells, D].
    """
    mean = features.float().mean(dim=0, keepdim=True)
    if not alone and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean.to(features.dtype)


def distinct_levels(geometry: Geometry) -> tuple[int, ...]:
    """One level per encoder depth: pooling does not change the mean over cells, so the others are redundant."""
    first: dict[int, int] = {}
    for number, level in enumerate(geometry.levels):
        first.setdefault(level.depth, number)
    return tuple(first.values())
