"""Positions: fixed sine-cosine tables and axial rotary angles on grids of one to three axes."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa.config import Grid, PerAxis
from hjepa.config.grid import axis_widths, cells, per_axis


def sincos(dim: int, grid: Grid, stride: PerAxis = 1, *, over: Grid | None = None) -> Tensor:
    """Fixed sine-cosine positions of a grid (MAE, arXiv:2111.06377, appendix; "Attention is all you need" per axis).

    Args:
        dim: width; even for one axis, a multiple of 4 for two, even and at least 6 for three (`axis_widths`).
        grid: tokens along each axis.
        stride: cells of ``stride`` tokens along each axis get the position of their centre, in token units, so that
            the positions of all levels share one coordinate system. 0: the whole input, which has no position.
        over: the grid that an encoder was trained on, if it is another one: the tokens are spread over its extent, so
            that the borders of the input keep their coordinates.

    Returns:
        float32 [cells, dim], row-major; the features of the first axis first.
    """
    if stride == 0:
        return torch.zeros(1, dim)
    steps = per_axis(stride, len(grid))
    centres = [
        stretch(torch.arange(count, dtype=torch.float64) * step + (step - 1) / 2, size, trained)
        for count, step, size, trained in zip(cells(grid, stride), steps, grid, over or grid, strict=True)
    ]
    parts = []
    for place, width in zip(_places(centres), axis_widths(dim, len(grid)), strict=True):
        angle = place * _frequencies(width // 2, 10000.0)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).float()


def rope_angles(head_dim: int, grid: Grid, *, over: Grid | None = None) -> Tensor:
    """Angles of axial rotary positions (RoFormer, arXiv:2104.09864; axial as in RoPE-ViT, arXiv:2403.13298).

    Each axis rotates a share of the feature pairs, the first axis the first pairs; see `axis_widths`.

    Args:
        head_dim: width of one head; even for one axis, a multiple of 4 for two, even and at least 6 for three.
        grid: tokens along each axis.
        over: as in `sincos`.

    Returns:
        float32 [tokens, head_dim / 2], one angle per pair of features.
    """
    places = _places(
        [
            stretch(torch.arange(count, dtype=torch.float64), count, trained)
            for count, trained in zip(grid, over or grid, strict=True)
        ]
    )
    widths = axis_widths(head_dim, len(grid))
    angles = [place * _frequencies(width // 2, 100.0) for place, width in zip(places, widths, strict=True)]
    return torch.cat(angles, dim=1).float()


def stretch(coordinates: Tensor, count: int, trained: int) -> Tensor:
    """Coordinates on an axis of ``count`` tokens, in the units of an axis of ``trained`` tokens over the same extent.

    Token i covers i - 1/2 to i + 1/2, so both axes start at -1/2. Equal counts return the coordinates unchanged.
    """
    return coordinates if count == trained else (coordinates + 0.5) * (trained / count) - 0.5


def _places(axes: list[Tensor]) -> list[Tensor]:
    """For each axis the coordinates of all cells, [cells, 1], row-major."""
    return [coordinate.reshape(-1, 1) for coordinate in torch.meshgrid(*axes, indexing="ij")]


def _frequencies(count: int, base: float) -> Tensor:
    return base ** -(torch.arange(count, dtype=torch.float64) / count)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of features by their angles.

    Args:
        x: [B, heads, N, head_dim]; features ``i`` and ``i + head_dim / 2`` form a pair.
        angles: [N, head_dim / 2] or [B, N, head_dim / 2].
    """
    if angles.dim() == 3:
        angles = angles.unsqueeze(1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
