"""Preprocessing of images for a trained encoder, wherever features are computed.

Specified so that it can be reproduced without this package:

1. Crop the largest centred box with the aspect ratio of the output: height ``min(h, round(w * H / W))``, width
   ``min(w, round(h * W / H))``, at least 1 each, halves rounded to even; top ``(h - height) // 2``, and left likewise.
2. Resize the crop with an antialiased bilinear filter, as in Pillow and torchvision; pixels outside the crop have no
   influence.
3. Divide by the largest value of the pixel type, subtract the mean and divide by the standard deviation per channel.

`Preprocess` resizes in float32, and so does the evaluation of images that are in memory with one size. Other 8-bit
images (read from files, or of several sizes) are resized by PyTorch's 8-bit kernel, which is several times faster on a
CPU and rounds the result: pixels differ by at most one grey level, and features by up to about 1.5 %. Images that need
no resizing are the same everywhere, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hjepa.data.images.crops import centre_boxes
from hjepa.data.images.decode import unit_scale
from hjepa.data.images.photometric import normalise
from hjepa.data.images.resample import crop_batch

CROP = "largest centred box of the output's shape"
RESIZE = "bilinear, antialiased"
# How far floating-point images may exceed [0, 1].
_OVERSHOOT = 0.25
LARGEST_VALUE = {"uint8": 255, "uint16": 65535, "float": 1}


@dataclass(frozen=True)
class Preprocess:
    """Crop, resize and normalise raw images for an encoder.

    Attributes:
        image_size: (H, W) of the encoder's input, in pixels.
        mean, std: one value per channel, for pixel values in [0, 1].

    Raises:
        ValueError: ``mean`` and ``std`` differ in length.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; give one per channel to both")

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Crop, resize and normalise; differentiable for floating-point images.

        Args:
            images: [B, C, h, w] of any size: uint8 (0 to 255), uint16 (0 to 65535) or floating point (0 to 1).

        Returns:
            float32 [B, C, H, W] on the device of the images.

        Raises:
            ValueError: wrong number of axes or channels, no pixels, an unsupported type, or floating-point values that
                are NaN or far outside 0 to 1.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"expected images of shape [B, {self.channels}, H, W] for an encoder of {self.channels} channels, got "
                f"{tuple(images.shape)}"
            )
        if not min(images.shape[2:]):
            raise ValueError(f"expected images with at least one pixel, got shape {tuple(images.shape)}")
        _check_range(images)
        return self.normalise(self.cut(images))

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop of an image, in pixels."""
        top, left, box_height, box_width = centre_boxes(np.array([[height, width]]), self.image_size)[0].tolist()
        return top, left, box_height, box_width

    def cut(self, images: Tensor) -> Tensor:
        """Crop and resize images [B, C, h, w] to float32 [B, C, H, W] in [0, 1]; the result is always a copy.

        Raises:
            ValueError: a type other than uint8, uint16 and floating point.
        """
        if images.is_floating_point():
            images = images.to(torch.float32)
        elif images.dtype not in (torch.uint8, torch.uint16):
            raise ValueError(f"expected images of uint8, uint16 or floating point in [0, 1], got {images.dtype}")
        height, width = images.shape[2:]
        box = self.box(height, width)
        if (height, width) == self.image_size and box == (0, 0, height, width):
            return images.to(torch.float32) * unit_scale(images.dtype)
        boxes = torch.tensor([box], device=images.device).expand(len(images), 4)
        flips = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        return crop_batch(images, boxes, flips, self.image_size)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images [B, C, H, W] in [0, 1] by mean and standard deviation, in place."""
        return normalise(images, self.mean, self.std)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with crop and resize method in words."""
        return {
            "image_size": list(self.image_size),
            "channels": self.channels,
            "crop": CROP,
            "resize": RESIZE,
            "largest_value": dict(LARGEST_VALUE),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Restore the preprocessing that `as_dict` wrote.

        Raises:
            ValueError: a crop, resize method or scale that this version does not support.
            KeyError: a value is missing.
        """
        for name, known in (("crop", CROP), ("resize", RESIZE), ("largest_value", LARGEST_VALUE)):
            if values.get(name, known) != known:
                raise ValueError(f"preprocess.{name}: unsupported value {values[name]!r}; expected {known!r}")
        height, width = values["image_size"]
        return cls((int(height), int(width)), _floats(values["mean"]), _floats(values["std"]))


def _check_range(images: Tensor) -> None:
    """Reject floating-point images that are not scaled to [0, 1], which would give meaningless features."""
    if not images.is_floating_point() or not len(images):
        return
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()
    # Images resized by other means may overshoot slightly. NaN fails the comparison too.
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
        raise ValueError(
            "expected floating-point images with values from 0 to 1, got "
            + (
                "NaN"
                if math.isnan(low)
                else f"values from {low:g} to {high:g}; divide 8-bit values by 255, or give uint8"
            )
        )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
