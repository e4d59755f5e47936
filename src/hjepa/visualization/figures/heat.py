"""Maps of one number per cell, laid over pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hjepa.visualization.figures.style import Picture

# Dark to bright with rising value and readable without colour vision.
_COLOURS = "inferno"
# How much of the map covers the picture: least where the value is 0, most at the maximum.
_COVER = (0.45, 0.9)
# A map is bright only where it is clearly above an even spread.
_LEAST_SCALE = 2.0


def heat(picture: Picture, values: Tensor, grid: tuple[int, int], own: int | None = None) -> Picture:
    """Lay a map of shares over a picture.

    Dark is 0. The brightest colour is the largest value of the map, or twice an even spread if that is more, so that an
    even map is not bright.

    Args:
        picture: uint8 [H, W, 3].
        values: [cells], row-major, 0 or more, with sum 1.
        grid: rows and columns.
        own: a cell that does not count for the scale.

    Returns:
        uint8 [H, W, 3].
    """
    from matplotlib import colormaps

    values = values.detach().float().cpu()
    top = max(float(others(values, own).max()), _LEAST_SCALE / len(values))
    small = (values / top).clamp(max=1).reshape(1, 1, *grid)
    scaled = F.interpolate(small, size=picture.shape[:2], mode="nearest-exact")[0, 0].numpy()
    layer: NDArray[np.float64] = np.asarray(colormaps[_COLOURS](scaled))[..., :3]
    cover = (_COVER[0] + (_COVER[1] - _COVER[0]) * scaled)[..., None]
    grey = picture.mean(axis=2, keepdims=True) / 255
    mixed = cover * layer + (1 - cover) * grey
    return np.ascontiguousarray((mixed * 255).round().clip(0, 255).astype(np.uint8))


def strength(values: Tensor, own: int | None = None) -> str:
    """How uneven a map of shares with sum 1 is: its largest value in multiples of an even spread, and the share of a cell
    that does not count for it."""
    times = float(others(values, own).max()) * math.prod(values.shape)
    text = f"max {times:.0f}\N{MULTIPLICATION SIGN}" if times >= 10 else f"max {times:.1f}\N{MULTIPLICATION SIGN}"
    return text if own is None else f"own {float(values[own]):.0%}, {text}"


def others(values: Tensor, own: int | None) -> Tensor:
    """The values of all cells but one."""
    return values if own is None else torch.cat([values[:own], values[own + 1 :]])
