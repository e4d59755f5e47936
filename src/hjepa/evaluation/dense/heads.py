"""Heads that turn frozen feature maps into a class per pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH = 48


class LinearHead(nn.Module):
    """Batch normalisation and a linear map of every cell, enlarged to pixels (as in DINOv2, arXiv:2304.07193).

    Args:
        width: channels of the map.
        num_classes: C.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.linear = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits [B, C, H, W] at ``size`` of maps [B, D, h, w]."""
        return enlarge(self.linear(self.norm(features)), size)


class DecoderHead(nn.Module):
    """A small convolutional decoder at twice the resolution of the map, 48 channels wide.

    Args:
        width: channels of the map.
        num_classes: C.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.reduce = nn.Conv2d(width, _WIDTH, 1)
        self.mix = nn.Sequential(nn.GELU(), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.GroupNorm(8, _WIDTH), nn.GELU())
        self.classify = nn.Conv2d(_WIDTH, num_classes, 1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits [B, C, H, W] at ``size`` of maps [B, D, h, w]."""
        x = self.reduce(self.norm(features))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return enlarge(self.classify(self.mix(x)), size)


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits [B, C, h, w] to [B, C, H, W] bilinearly."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
