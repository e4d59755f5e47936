"""Where to cut: random and centred crop boxes for a whole batch at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hjepa.runtime.random import Purpose, stream

if TYPE_CHECKING:
    from hjepa.config import AugmentationConfig

_ATTEMPTS = 10
_AREA = slice(0, _ATTEMPTS)
_RATIO = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_TOP, _LEFT, _FLIP = 2 * _ATTEMPTS, 2 * _ATTEMPTS + 1, 2 * _ATTEMPTS + 2
_JITTER = slice(_FLIP + 1, _FLIP + 4)
DRAWS = _FLIP + 4
"""Uniform numbers that one image needs."""


class Crops(NamedTuple):
    """How the images of a batch are cut."""

    boxes: np.ndarray
    """int64 ``[B, 4]``: top, left, height, width in pixels."""
    flips: np.ndarray
    """bool ``[B]``: mirrored after cutting."""


def augmentation_draws(seed: int, step: int, global_batch: int) -> np.ndarray:
    """The uniform numbers of a step: float64 ``[global_batch, DRAWS]``, row p for global position p.

    Rows do not depend on how many follow, so that any process may draw as many as it needs.
    """
    return stream(Purpose.AUGMENTATION, seed, step).random((global_batch, DRAWS))


def random_crops(
    draws: np.ndarray, sizes: np.ndarray, out_size: tuple[int, int], augmentation: AugmentationConfig
) -> Crops:
    """Boxes of random resized crops (Szegedy et al., arXiv:1409.4842) and random mirroring.

    Area (uniform in ``crop_scale`` of the image's) and aspect ratio (log-uniform in ``crop_ratio``) are independent
    draws; of ten candidates the first that fits the image is taken, and every position at which it fits is equally
    likely. Where none fits: the largest centred box of the nearest ratio allowed, as in torchvision.

    Args:
        draws: float64 ``[B, DRAWS]``.
        sizes: int64 ``[B, 2]``, height and width of each image.
        out_size: height and width after resizing; its shape is that of the centred crop without ``random_crop``.
        augmentation: which of it is done.
    """
    flips = draws[:, _FLIP] < (0.5 if augmentation.horizontal_flip else 0.0)
    if not augmentation.random_crop:
        return Crops(centre_boxes(sizes, out_size), flips)
    (low, high), (narrow, wide) = augmentation.crop_scale, augmentation.crop_ratio
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    area = height * width * (low + (high - low) * draws[:, _AREA])
    ratio = np.exp(np.log(narrow) + (np.log(wide) - np.log(narrow)) * draws[:, _RATIO])
    box_width = np.rint(np.sqrt(area * ratio))
    box_height = np.rint(np.sqrt(area / ratio))
    fits = (box_width >= 1) & (box_width <= width) & (box_height >= 1) & (box_height <= height)
    row = np.arange(len(draws))
    first = fits.argmax(axis=1)
    box = np.stack([box_height[row, first], box_width[row, first]], axis=1)
    spare = (sizes - box + 1) * draws[:, [_TOP, _LEFT]]
    boxes = np.concatenate([np.floor(spare), box], axis=1)
    none = ~fits.any(axis=1)
    if none.any():
        boxes[none] = _fallback(sizes[none], narrow, wide)
    return Crops(boxes.astype(np.int64), flips)


def centre_boxes(sizes: np.ndarray, out_size: tuple[int, int]) -> np.ndarray:
    """The largest centred box with the shape of the output: int64 ``[B, 4]``, within half a pixel."""
    ratio = out_size[1] / out_size[0]
    return _fallback(sizes, ratio, ratio).astype(np.int64)


def jitter_factors(draws: np.ndarray, strength: float) -> np.ndarray:
    """Factors of brightness, contrast and saturation: float32 ``[B, 3]``, uniform in [1 - s, 1 + s]."""
    return (1 - strength + 2 * strength * draws[:, _JITTER]).astype(np.float32)


def _fallback(sizes: np.ndarray, narrow: float, wide: float) -> np.ndarray:
    height, width = sizes[:, 0], sizes[:, 1]
    box_width = np.clip(np.rint(height * wide), 1, width)
    box_height = np.clip(np.rint(width / narrow), 1, height)
    return np.stack([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width], axis=1)
