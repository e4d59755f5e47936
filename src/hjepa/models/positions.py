"""Where a token is: fixed 2-D sine-cosine tables and axial rotary angles."""

from __future__ import annotations

import torch
from torch import Tensor


def sincos_2d(dim: int, grid: tuple[int, int], stride: int = 1) -> Tensor:
    """Fixed sine-cosine positions of a grid (MAE, arXiv:2111.06377, appendix; "Attention is all you need" per axis).

    Args:
        dim: width; a multiple of 4.
        grid: rows and columns of the token grid.
        stride: cells of ``stride`` x ``stride`` tokens get the position of their centre, in token units, so that
            positions of all levels live in one coordinate system. 0: the whole image, which has no position.

    Returns:
        float32 [rows / stride * columns / stride, dim], row-major.
    """
    if stride == 0:
        return torch.zeros(1, dim)
    rows = torch.arange(grid[0] // stride, dtype=torch.float64) * stride + (stride - 1) / 2
    columns = torch.arange(grid[1] // stride, dtype=torch.float64) * stride + (stride - 1) / 2
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    frequency = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    parts = [f(axis.reshape(-1, 1) * frequency) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()


def rope_angles(head_dim: int, grid: tuple[int, int]) -> Tensor:
    """Angles of axial rotary positions (RoFormer, arXiv:2104.09864; axial as in RoPE-ViT, arXiv:2403.13298).

    The first half of a head turns with the row, the second with the column.

    Args:
        head_dim: width of one head; a multiple of 4.
        grid: rows and columns.

    Returns:
        float32 [rows * columns, head_dim / 2], one angle per pair of features.
    """
    frequency = 100.0 ** -(torch.arange(head_dim // 4, dtype=torch.float64) / (head_dim // 4))
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.cat([axis.reshape(-1, 1).double() * frequency for axis in (y, x)], dim=1).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs of features by their angles.

    Args:
        x: [B, heads, N, head_dim]; features ``i`` and ``i + head_dim / 2`` form a pair.
        angles: [N, head_dim / 2] or [B, N, head_dim / 2].
    """
    if angles.dim() == 3:
        angles = angles.unsqueeze(1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
