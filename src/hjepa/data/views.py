"""Specification of views: number, size, crop and colour augmentation of what a method sees of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hjepa.config import DataConfig


@dataclass(frozen=True)
class ViewSpec:
    """One kind of view. By default the largest centred crop, with unchanged colours.

    A loader makes ``count`` views of this kind of every image, each with its own random numbers.

    Raises:
        ValueError: a value out of bounds; the message names it.
    """

    name: str
    """Name for methods and figures, for example ``"global"``."""
    size: tuple[int, ...]
    """Sides of the view in pixels, (H, W) for images."""
    count: int = 1
    """Number of views of this kind per image."""
    random_crop: bool = False
    """Random resized crop; otherwise the largest centred crop with the view's aspect ratio."""
    scale: tuple[float, float] = (0.4, 1.0)
    """Range of the share of the image's area that a random crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of width over height of a random crop before it is resized."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    color_jitter: float = 0.0
    """Strength s: brightness, contrast and saturation are multiplied by factors uniform in [1 - s, 1 + s]."""
    grayscale: float = 0.0
    """Probability of conversion to greyscale, for images of three channels."""
    blur: float = 0.0
    """Probability of Gaussian blur; its standard deviation is uniform in [0.1, 2] pixels of the view."""
    solarize: float = 0.0
    """Probability of solarisation, which inverts all values of 0.5 and above."""

    def __post_init__(self) -> None:
        if not self.size or min(self.size) < 1:
            raise ValueError(f"view {self.name!r}: size must be positive, got {self.size}")
        if self.count < 1:
            raise ValueError(f"view {self.name!r}: count must be at least 1, got {self.count}")
        for key in ("flip", "grayscale", "blur", "solarize"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"view {self.name!r}: {key} must be a probability in [0, 1], got {getattr(self, key)}")
        if not 0 <= self.color_jitter < 1:
            raise ValueError(
                f"view {self.name!r}: color_jitter must be at least 0 and below 1, got {self.color_jitter}"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"view {self.name!r}: scale must be an ascending pair in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"view {self.name!r}: ratio must be an ascending pair above 0, got {self.ratio}")

    @property
    def plane(self) -> tuple[int, int]:
        """(H, W) of a view of images.

        Raises:
            ValueError: the size does not have two axes; crops support images only.
        """
        if len(self.size) != 2:
            raise ValueError(f"view {self.name!r}: size must be (height, width), got {self.size}")
        return self.size[0], self.size[1]

    @property
    def recolours(self) -> bool:
        """Whether any colour augmentation is enabled."""
        return bool(self.color_jitter) or self.recolours_beyond_jitter

    @property
    def recolours_beyond_jitter(self) -> bool:
        """Whether greyscale, blur or solarisation is enabled."""
        return bool(self.grayscale or self.blur or self.solarize)


def default_views(data: DataConfig, image_size: tuple[int, int]) -> tuple[ViewSpec, ...]:
    """The single view that ``data.augmentation`` describes.

    Args:
        data: the ``data`` section.
        image_size: (H, W) of the view, in pixels.
    """
    keys = data.augmentation
    return (
        ViewSpec(
            "image",
            image_size,
            random_crop=keys.random_crop,
            scale=keys.crop_scale,
            ratio=keys.crop_ratio,
            flip=0.5 if keys.horizontal_flip else 0.0,
            color_jitter=keys.color_jitter,
            grayscale=keys.grayscale,
            blur=keys.blur,
            solarize=keys.solarize,
        ),
    )


def centre_view(image_size: tuple[int, int]) -> ViewSpec:
    """The view for evaluation: the largest centred crop, not flipped, with unchanged colours."""
    return ViewSpec("centre", image_size)


def one_per_view(specs: Sequence[ViewSpec]) -> tuple[ViewSpec, ...]:
    """Expand each specification into ``count`` specifications with a count of one, in the order of the views.

    Raises:
        ValueError: no view, or two kinds with the same name.
    """
    names = [spec.name for spec in specs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"views: give at least one kind of view, each with a unique name, got {names}")
    return tuple(replace(spec, count=1) for spec in specs for _ in range(spec.count))
