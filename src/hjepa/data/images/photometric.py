"""Colour augmentation and normalisation of cropped images, in batches on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.data.images.decode import LUMINANCE
from hjepa.data.images.transfer import send

# Size of the blur kernel as a share of the view's side (Chen et al., arXiv:2002.05709).
_BLUR_SHARE = 0.1
_LEAST_KERNEL = 3


def color_jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, in this order, by separate factors for each image.

    Brightness multiplies; contrast blends with the image's mean grey; saturation blends with the greyscale image and
    applies to three channels only. Values are clamped to [0, 1] after each step.

    Args:
        images: float32 [B, C, H, W] in [0, 1].
        factors: float32 [B, 3] for brightness, contrast and saturation; 1 means unchanged.

    Returns:
        float32 [B, C, H, W] in [0, 1].
    """
    brightness, contrast, saturation = (f.view(-1, 1, 1, 1) for f in factors.unbind(1))
    images = (images * brightness).clamp_(0, 1)
    images = torch.lerp(_grey(images).mean(dim=(2, 3), keepdim=True), images, contrast).clamp_(0, 1)
    if images.shape[1] == 3:
        images = torch.lerp(_grey(images), images, saturation).clamp_(0, 1)
    return images


def recolour(images: Tensor, colours: np.ndarray | None) -> Tensor:
    """Apply colour jitter, greyscale, blur and solarisation, in this order, to each image by its row of parameters.

    Args:
        images: float32 [B, C, H, W] in [0, 1]; may be changed in place.
        colours: float32 [B, 6] as in `View.colours`; None leaves the images unchanged.

    Returns:
        float32 [B, C, H, W] in [0, 1].
    """
    if colours is None:
        return images
    from torchvision.transforms.v2 import functional as tv

    factors, (grey, sigma, inverted) = colours[:, :3], colours[:, 3:].T
    if (factors != 1).any():
        images = color_jitter(images, send(np.ascontiguousarray(factors), images.device))
    if images.shape[1] == 3:
        images = _some(images, grey > 0, lambda part, _: tv.rgb_to_grayscale(part, num_output_channels=3))
    images = _some(images, sigma > 0, lambda part, rows: gaussian_blur(part, send(sigma[rows], part.device)))
    return _some(images, inverted > 0, lambda part, _: tv.solarize(part, 0.5))


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a separate standard deviation for each image and mirrored borders.

    Equals ``torchvision.transforms.v2.functional.gaussian_blur`` applied image by image, in two grouped convolutions.

    Args:
        images: float32 [B, C, H, W].
        sigma: float32 [B], above 0, in pixels.

    Returns:
        float32 [B, C, H, W].
    """
    batch, channels, height, width = images.shape
    flat = images.reshape(1, batch * channels, height, width)
    each = sigma.repeat_interleave(channels)[:, None]
    with torch.autocast(images.device.type, enabled=False):
        for down, side in ((True, height), (False, width)):
            size = min(blur_kernel(side), 2 * side - 1)
            offsets = torch.arange(size, device=images.device) - size // 2
            weights = torch.exp(-0.5 * (offsets / each) ** 2)
            weights = weights / weights.sum(dim=1, keepdim=True)
            rim = size // 2
            padded = F.pad(flat, [0, 0, rim, rim] if down else [rim, rim, 0, 0], mode="reflect")
            kernels = weights.view(-1, 1, size, 1) if down else weights.view(-1, 1, 1, size)
            flat = F.conv2d(padded, kernels, groups=batch * channels)
    return flat.view(images.shape)


def blur_kernel(side: int) -> int:
    """Size of the blur kernel along an axis of ``side`` pixels: a tenth of it, odd, at least 3."""
    return max(_LEAST_KERNEL, 2 * round(_BLUR_SHARE * side / 2 - 0.5) + 1)


def _some(images: Tensor, chosen: np.ndarray, change: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
    """Change some images of a batch in place. They are chosen on the CPU, so the GPU is not synchronised."""
    rows = np.flatnonzero(chosen)
    if len(rows) == len(images):
        return change(images, rows).contiguous()  # torchvision's greyscale is an expanded view of one channel
    if len(rows):
        where = send(rows, images.device)
        images[where] = change(images[where], rows)
    return images


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract ``mean`` and divide by ``std`` per channel, in place.

    Args:
        images: float32 [B, C, H, W] in [0, 1].
        mean: one value per channel.
        std: one value per channel.
    """
    shift, scale = (_per_channel(tuple(values), images.device) for values in (mean, std))
    return images.sub_(shift).div_(scale)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32 [1, C, 1, 1], cached on the device: a copy from pageable memory would synchronise with the GPU."""
    # Later calls may need gradients, which tensors created in inference mode do not support.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    return (images * _per_channel(LUMINANCE, images.device)).sum(dim=1, keepdim=True)
