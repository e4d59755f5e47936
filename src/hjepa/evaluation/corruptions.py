"""Common corruptions of images, in five severities.

The kinds are those of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich, arXiv:1903.12261) that need no external
files. The implementation and the parameters are this package's own, so figures do not compare with published ones.
Lengths are relative to the shorter side of the image, so that a severity looks alike at every size.

All random numbers of an image depend on the seed, the kind and the image alone. The severities of a kind share them:
a higher one is a stronger version of the same disturbance.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from hjepa.runtime.random import Purpose, stream

SEVERITIES = (1, 2, 3, 4, 5)
_KIND_SHIFT = 40

Generators = Sequence[np.random.Generator]
Corruption = Callable[[Tensor, int, Generators], Tensor]


def corrupt(images: Tensor, kind: str, severity: int, indices: Sequence[int], seed: int) -> Tensor:
    """Corrupt images, and round them to 8 bits as if they had been stored.

    Args:
        images: float32 [B, C, H, W] in [0, 1].
        kind: one of `KINDS`.
        severity: 1 (weakest) to 5.
        indices: number of each image, which selects its random numbers.
        seed: seed of all random numbers.

    Returns:
        float32 [B, C, H, W] in [0, 1], on the CPU.

    Raises:
        ValueError: an unknown kind or severity.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, got {severity}")
    number = list(KINDS).index(kind)
    generators = [stream(Purpose.CORRUPTIONS, seed, number << _KIND_SHIFT | index) for index in indices]
    corrupted = KINDS[kind](images.cpu(), severity - 1, generators)
    return corrupted.clamp(0, 1).mul(255).round().div(255)


def _gaussian_noise(images: Tensor, level: int, generators: Generators) -> Tensor:
    return images + (0.04, 0.08, 0.12, 0.18, 0.26)[level] * _normal(images, generators)


def _shot_noise(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Poisson noise of few photons per pixel."""
    photons = (100, 50, 25, 12, 5)[level]
    counts = [g.poisson(image.numpy() * photons) for g, image in zip(generators, images, strict=True)]
    return torch.from_numpy(np.stack(counts).astype(np.float32)) / photons


def _impulse_noise(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Values set to black or white at random places."""
    share = (0.01, 0.03, 0.06, 0.11, 0.17)[level]
    draws = torch.from_numpy(np.stack([g.random(images.shape[1:], dtype=np.float32) for g in generators]))
    return torch.where(draws < share / 2, 0.0, torch.where(draws > 1 - share / 2, 1.0, images))


def _defocus_blur(images: Tensor, level: int, generators: Generators) -> Tensor:  # noqa: ARG001
    radius = (0.012, 0.018, 0.026, 0.036, 0.045)[level] * _side(images) + 0.5
    return _filter(images, _disk(radius).expand(len(images), -1, -1))


def _motion_blur(images: Tensor, level: int, generators: Generators) -> Tensor:
    length = (0.06, 0.09, 0.12, 0.16, 0.2)[level] * _side(images) + 1.0
    return _filter(images, torch.stack([_line(length, g.uniform(0, math.pi)) for g in generators]))


def _zoom_blur(images: Tensor, level: int, generators: Generators) -> Tensor:  # noqa: ARG001
    zooms = torch.linspace(1.0, (1.11, 1.16, 1.21, 1.26, 1.33)[level], 8)
    grid = _identity_grid(images)
    return torch.stack([_sample(images, grid / zoom) for zoom in zooms]).mean(dim=0)


def _fog(images: Tensor, level: int, generators: Generators) -> Tensor:
    """A bright, cloudy layer: noise of several scales, the coarser the stronger."""
    height, width = images.shape[2:]
    cloud = torch.zeros(len(images), 1, height, width)
    cells, strength = 2, 1.0
    while cells <= min(height, width):
        noise = torch.from_numpy(np.stack([g.random((1, cells, cells), dtype=np.float32) for g in generators]))
        cloud = cloud + strength * F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)
        cells, strength = 2 * cells, strength / 1.8
    low, high = cloud.amin(dim=(1, 2, 3), keepdim=True), cloud.amax(dim=(1, 2, 3), keepdim=True)
    amount = (0.3, 0.6, 0.9, 1.2, 1.5)[level]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + amount * (cloud - low) / (high - low)) * brightest / (brightest + amount)


def _brightness(images: Tensor, level: int, generators: Generators) -> Tensor:  # noqa: ARG001
    return images + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def _contrast(images: Tensor, level: int, generators: Generators) -> Tensor:  # noqa: ARG001
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + (0.6, 0.45, 0.3, 0.2, 0.1)[level] * (images - mean)


def _elastic(images: Tensor, level: int, generators: Generators) -> Tensor:
    """Smooth random displacements."""
    side = _side(images)
    moves = _normal(images[:, :1].expand(-1, 2, -1, -1), generators)
    smooth = 0.08 * side
    size = 2 * math.ceil(2 * smooth) + 1
    moves = vision.gaussian_blur(_pad(moves, size // 2), [size, size], [smooth, smooth])
    moves = moves[:, :, size // 2 : -(size // 2), size // 2 : -(size // 2)]
    moves = moves / moves.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    amount = (0.01, 0.02, 0.03, 0.04, 0.05)[level]
    # The grid spans 2 over an axis.
    return _sample(images, _identity_grid(images) + 2 * amount * moves.permute(0, 2, 3, 1))


def _pixelate(images: Tensor, level: int, generators: Generators) -> Tensor:  # noqa: ARG001
    share = (0.65, 0.5, 0.42, 0.33, 0.25)[level]
    small = [max(1, round(share * size)) for size in images.shape[2:]]
    return F.interpolate(F.interpolate(images, small, mode="area"), images.shape[2:], mode="nearest-exact")


def _jpeg(images: Tensor, level: int, generators: Generators) -> Tensor:  # noqa: ARG001
    """Compression; images of other than one or three channels are compressed channel by channel."""
    quality = (60, 40, 25, 15, 8)[level]
    bytes_ = images.mul(255).round().to(torch.uint8)
    whole = images.shape[1] in (1, 3)
    planes = bytes_ if whole else bytes_.flatten(0, 1)[:, None]
    packed = torch.stack([_recompressed(plane, quality) for plane in planes])
    return packed.view(images.shape).to(torch.float32) / 255


KINDS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""By name. The order selects the random numbers: add new kinds at the end."""


def _side(images: Tensor) -> int:
    return min(images.shape[2:])


def _normal(images: Tensor, generators: Generators) -> Tensor:
    drawn = [g.standard_normal(tuple(images.shape[1:]), dtype=np.float32) for g in generators]
    return torch.from_numpy(np.stack(drawn))


def _disk(radius: float) -> Tensor:
    """A disk as a filter [K, K]; pixels on its edge count by the share of them inside, from 8 x 8 samples."""
    reach = math.ceil(radius)
    places = (torch.arange((2 * reach + 1) * 8) + 0.5) / 8 - (reach + 0.5)
    inside = (places[:, None] ** 2 + places[None, :] ** 2 <= radius**2).to(torch.float32)
    kernel = F.avg_pool2d(inside[None, None], 8)[0, 0]
    return kernel / kernel.sum()


def _line(length: float, angle: float) -> Tensor:
    """A line through the centre as a filter [K, K]; K depends on the length alone."""
    reach = math.ceil(length / 2)
    places = torch.linspace(-length / 2, length / 2, 4 * math.ceil(length) + 1)
    rows, columns = places * math.sin(angle), places * math.cos(angle)
    axis = torch.arange(-reach, reach + 1)
    # Each point is shared among the four pixels around it.
    vertical = (1 - (rows[:, None] - axis).abs()).clamp(min=0)
    horizontal = (1 - (columns[:, None] - axis).abs()).clamp(min=0)
    kernel = torch.einsum("pr,pc->rc", vertical, horizontal)
    return kernel / kernel.sum()


def _filter(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter every image [B, C, H, W] with its own kernel [B, K, K]; borders are mirrored where they are wide enough."""
    B, C, H, W = images.shape
    padded = _pad(images, kernels.shape[1] // 2)
    rows = padded.transpose(0, 1)  # channels as batch, images as groups
    filtered = F.conv2d(rows, kernels[:, None].to(images.dtype), groups=B)
    return filtered.transpose(0, 1).reshape(B, C, H, W)


def _pad(images: Tensor, width: int) -> Tensor:
    mode = "reflect" if width < min(images.shape[2:]) else "replicate"
    return F.pad(images, (width, width, width, width), mode=mode)


def _identity_grid(images: Tensor) -> Tensor:
    theta = torch.eye(2, 3).expand(len(images), 2, 3)
    return F.affine_grid(theta, list(images.shape), align_corners=False)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recompressed(plane: Tensor, quality: int) -> Tensor:
    from PIL import Image

    array = plane[0].numpy() if len(plane) == 1 else plane.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="JPEG", quality=quality)
    with Image.open(file) as image:
        decoded = torch.from_numpy(np.array(image))
    return decoded[None] if len(plane) == 1 else decoded.permute(2, 0, 1)
