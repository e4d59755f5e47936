"""What happens to pixel values after the crop: colour jitter and normalisation, in batches on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from hjepa.data.images.decode import LUMINANCE


def color_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation, in this order, each image by its own factors.

    Brightness multiplies; contrast blends with the image's mean grey; saturation blends with the grey image and is left
    out unless there are three channels. Values are clamped to [0, 1] after each.

    Args:
        images: float32 ``[B, C, H, W]`` in [0, 1].
        factors: float32 ``[B, 3]``, 1 leaves as is.

    Returns:
        float32 ``[B, C, H, W]`` in [0, 1].
    """
    brightness, contrast, saturation = (f.view(-1, 1, 1, 1) for f in factors.unbind(1))
    images = (images * brightness).clamp_(0, 1)
    images = torch.lerp(_grey(images).mean(dim=(2, 3), keepdim=True), images, contrast).clamp_(0, 1)
    if images.shape[1] == 3:
        images = torch.lerp(_grey(images), images, saturation).clamp_(0, 1)
    return images


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract ``mean`` and divide by ``std`` per channel, in place.

    Args:
        images: float32 ``[B, C, H, W]`` in [0, 1].
        mean: one value per channel.
        std: one value per channel.
    """
    shift, scale = (_per_channel(tuple(values), images.device) for values in (mean, std))
    return images.sub_(shift).div_(scale)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 ``[1, C, 1, 1]``, sent to the device once: a host waits for copies of memory that is not page-locked."""
    # Kept for later calls too, which may be differentiated: a tensor made in inference mode could not be.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    return (images * _per_channel(LUMINANCE, images.device)).sum(dim=1, keepdim=True)
