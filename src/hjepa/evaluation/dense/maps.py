"""Patch features as maps: of an encoder, per level and of all levels, and the raw pixels of each patch."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from hjepa.models import Encoder, level_features

ALL = "all"
"""Name of the map that concatenates all levels."""


class MapReader(Protocol):
    """From images to patch features, and from those to maps by name."""

    def tokens(self, images: Tensor) -> Tensor:
        """Patch features [B, N, D] of normalised images [B, C, H, W]."""
        ...

    def maps(self, tokens: Tensor) -> dict[str, Tensor]:
        """Maps [B, d, h, w] by name, among them `ALL`."""
        ...


class EncoderMaps:
    """Features of an encoder after every depth that a level has.

    Args:
        encoder: in evaluation mode.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def tokens(self, images: Tensor) -> Tensor:
        """The depths side by side, [B, N, depths * D]."""
        return self.encoder.extract_features(images, depths=self.encoder.depths, pool="none")

    def maps(self, tokens: Tensor) -> dict[str, Tensor]:
        """``level_<i>`` on the grid of each level, and all depths on the grid of the patches."""
        geometry = self.encoder.geometry
        taps = dict(zip(self.encoder.depths, tokens.chunk(len(self.encoder.depths), dim=2), strict=True))
        levels = level_features(taps, geometry)
        found = {
            f"level_{number}": as_map(features, geometry.level_grid(number)) for number, features in enumerate(levels)
        }
        return found | {ALL: as_map(tokens, geometry.grid)}


class PixelMaps:
    """The control: the pixels of each patch are its features.

    Args:
        patch: height and width of a patch.
        grid: patches along each axis.
    """

    def __init__(self, patch: tuple[int, ...], grid: tuple[int, ...]) -> None:
        self.patch, self.grid = patch, grid

    def tokens(self, images: Tensor) -> Tensor:
        """[B, N, C * pixels of a patch]."""
        return F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)

    def maps(self, tokens: Tensor) -> dict[str, Tensor]:
        """One map on the grid of the patches."""
        return {ALL: as_map(tokens, self.grid)}


def as_map(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Row-major tokens [B, N, D] as a map [B, D, h, w]; a single token as [B, D, 1, 1]."""
    height, width = (1, 1) if tokens.shape[1] == 1 else grid
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
