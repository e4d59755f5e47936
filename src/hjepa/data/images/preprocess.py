"""The view of an image that a trained encoder is read with, the same wherever features are made.

The contract, in words that a program without this package can follow:

1. cut out the largest centred box of the output's shape: height ``min(h, round(w * H / W))``, width
   ``min(w, round(h * W / H))``, at least 1 each, halves rounded to even; its top is ``(h - height) // 2``, its left side
   likewise;
2. resize what was cut out, which knows nothing of the pixels around it, with a bilinear filter that widens as it shrinks
   (antialiasing, as in Pillow and torchvision);
3. divide by the largest value of the pixel type, subtract the mean and divide by the standard deviation per channel.

Images that worker processes decode are resized in 8-bit arithmetic, which differs by one grey level at most.
"""

from __future__ import annotations

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
LARGEST_VALUE = {"uint8": 255, "uint16": 65535, "float": 1}


@dataclass(frozen=True)
class Preprocess:
    """From raw images to what an encoder takes.

    Attributes:
        image_size: height and width that the encoder works at.
        mean, std: per channel, for pixel values in [0, 1].
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
        """Cut, resize and normalise; differentiable for floating-point images.

        Args:
            images: [B, C, h, w] of any size: uint8 (0 to 255), uint16 (0 to 65535) or floating point (0 to 1).

        Returns:
            float32 [B, C, H, W] on the device of the images.

        Raises:
            ValueError: another number of axes or channels, or another type.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images of shape {tuple(images.shape)} for an encoder of {self.channels} channels; give "
                f"[B, {self.channels}, H, W]"
            )
        return self.normalise(self.cut(images))

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is kept of an image, in pixels."""
        top, left, box_height, box_width = centre_boxes(np.array([[height, width]]), self.image_size)[0].tolist()
        return top, left, box_height, box_width

    def cut(self, images: Tensor) -> Tensor:
        """Images [B, C, h, w] cut and resized: float32 [B, C, H, W] in [0, 1], never the memory of the images.

        Raises:
            ValueError: a type other than uint8, uint16 and floating point.
        """
        if images.is_floating_point():
            images = images.to(torch.float32)
        elif images.dtype not in (torch.uint8, torch.uint16):
            raise ValueError(f"images of type {images.dtype}; give uint8, uint16 or floating point in [0, 1]")
        height, width = images.shape[2:]
        box = self.box(height, width)
        if (height, width) == self.image_size and box == (0, 0, height, width):
            return images.to(torch.float32) * unit_scale(images.dtype)
        boxes = torch.tensor([box], device=images.device).expand(len(images), 4)
        flips = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        return crop_batch(images, boxes, flips, self.image_size)

    def normalise(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] by mean and standard deviation, in place."""
        return normalise(images, self.mean, self.std)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the contract spelled out."""
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
        """What `as_dict` wrote.

        Raises:
            ValueError: another way of cutting, resizing or scaling than this version has.
            KeyError: a value is missing.
        """
        for name, known in (("crop", CROP), ("resize", RESIZE), ("largest_value", LARGEST_VALUE)):
            if values.get(name, known) != known:
                raise ValueError(f"preprocess.{name}: {values[name]!r} is not known; this version has {known!r}")
        height, width = values["image_size"]
        return cls((int(height), int(width)), _floats(values["mean"]), _floats(values["std"]))


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
