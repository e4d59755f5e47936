"""What loaders yield: views of images, and where they were cut."""

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
    """float32 [B, 2 * axes], on the CPU: where the view was cut, starts and then sizes as fractions of the image;
    (top, left, height, width) for images."""
    flipped: Tensor
    """bool [B], on the CPU: whether it was mirrored left to right after cutting."""
    colours: Tensor | None
    """float32 [B, 6], on the CPU: factors of brightness, contrast and saturation (1: as is), greyscale (0 or 1),
    standard deviation of the blur in pixels (0: none), solarised (0 or 1). None for a kind of view that leaves colours
    alone."""
    spec: str
    """Name of its `ViewSpec`."""


@dataclass(frozen=True)
class Batch:
    """What a method sees of some images."""

    views: tuple[View, ...]
    """In the order of the specifications; a kind with a count has as many in a row."""
    indices: Tensor
    """int64 [B] into the data set, on the CPU."""
    targets: Target | None = None
    """Only where the loader was asked for them (``with_targets``)."""

    @property
    def images(self) -> Tensor:
        """Images of the first view, float32 [B, C, *size]."""
        return self.views[0].images

    def __len__(self) -> int:
        return len(self.indices)
