"""From encoder taps to levels: 2-D pooling on the token grid."""

from __future__ import annotations

from torch import Tensor, distributed

from hjepa.config import Geometry


def pool_cells(tokens: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """Average squares of ``stride`` x ``stride`` tokens on the 2-D grid (never along the raster sequence).

    Args:
        tokens: [B, rows * columns, D].
        grid: rows and columns.

    Returns:
        [B, rows / stride * columns / stride, D], row-major; [B, 1, D] for stride 0, the whole image.
    """
    if stride == 0:
        return tokens.mean(dim=1, keepdim=True)
    if stride == 1:
        return tokens
    B, _, D = tokens.shape
    h, w = grid[0] // stride, grid[1] // stride
    return tokens.reshape(B, h, stride, w, stride, D).mean(dim=(2, 4)).reshape(B, h * w, D)


def level_features(taps: dict[int, Tensor], geometry: Geometry) -> list[Tensor]:
    """The features of every level, finest first, from an encoder's taps of *all* tokens.

    Args:
        taps: depth -> [B, N, D].

    Returns:
        per level [B, cells of that level, D].
    """
    return [pool_cells(taps[level.depth], geometry.grid, level.stride) for level in geometry.levels]


def batch_mean(features: Tensor, *, alone: bool = False) -> Tensor:
    """Mean over the images of the batch, over all processes where there are several.

    Args:
        features: [B, cells, D], without gradient.
        alone: over this process's images only.

    Returns:
        [1, cells, D].
    """
    mean = features.float().mean(dim=0, keepdim=True)
    if not alone and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean.to(features.dtype)


def distinct_levels(geometry: Geometry) -> tuple[int, ...]:
    """Levels whose averages over cells differ: one for each encoder depth, since pooling does not change an average."""
    first: dict[int, int] = {}
    for number, level in enumerate(geometry.levels):
        first.setdefault(level.depth, number)
    return tuple(first.values())
