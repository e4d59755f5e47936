"""Batches that loaders yield: views of images with their crop boxes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hjepa.data.targets import Target


@dataclass(frozen=True)
class View:
    """One view of every image of a batch."""

    images: Tensor
    """float32 [B, C, *size], normalised, on the device."""
    boxes: Tensor
    """float32 [B, 2 * axes], on the CPU: the crop box, starts and then sizes, as fractions of the image; (top, left,
    height, width) for images."""
    flipped: Tensor
    """bool [B], on the CPU: whether the crop was flipped left to right."""
    colours: Tensor | None
    """float32 [B, 6], on the CPU: factors of brightness, contrast and saturation (1: unchanged), greyscale (0 or 1),
    standard deviation of the blur in pixels (0: none), solarised (0 or 1). None if the view has no colour
    augmentation."""
    spec: str
    """Name of its `ViewSpec`."""


@dataclass(frozen=True)
class Batch:
    """A batch of images, as one or more views."""

    views: tuple[View, ...]
    """In the order of the specifications; all views of one kind are consecutive."""
    indices: Tensor
    """int64 [B] into the data set, on the CPU."""
    targets: Target | None = None
    """The targets if the loader was built with ``with_targets``, else None."""

    @property
    def images(self) -> Tensor:
        """Images of the first view, float32 [B, C, *size]."""
        return self.views[0].images

    def __len__(self) -> int:
        return len(self.indices)
