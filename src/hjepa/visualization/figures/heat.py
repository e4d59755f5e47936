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
# Share of the picture, in grey, that stays visible under the map.
_PICTURE = 0.35


def heat(picture: Picture, values: Tensor, grid: tuple[int, int]) -> Picture:
    """Lay a map over a picture: black for 0, bright yellow for the largest value of this map.

    Args:
        picture: uint8 [H, W, 3].
        values: [cells], row-major, 0 or more.
        grid: rows and columns.

    Returns:
        uint8 [h, w, 3], h and w at least those of the picture.
    """
    from matplotlib import colormaps

    height, width = picture.shape[:2]
    values = values.detach().float().cpu()
    scaled = (values / values.max().clamp_min(1e-12)).reshape(grid).numpy()
    colours: NDArray[np.float64] = np.asarray(colormaps[_COLOURS](scaled))[..., :3]
    layer = F.interpolate(
        torch.from_numpy(colours).permute(2, 0, 1)[None], size=(height, width), mode="nearest-exact"
    )[0].permute(1, 2, 0).numpy()  # fmt: skip
    grey = picture.mean(axis=2, keepdims=True) / 255
    mixed = (1 - _PICTURE) * layer + _PICTURE * grey
    return np.ascontiguousarray((mixed * 255).round().clip(0, 255).astype(np.uint8))


def strength(values: Tensor) -> str:
    """How uneven a map of shares with sum 1 is: its largest value in multiples of an even distribution."""
    times = float(values.max()) * math.prod(values.shape)
    return f"max {times:.0f}×" if times >= 10 else f"max {times:.1f}×"
