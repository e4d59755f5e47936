"""Crop boxes and colour parameters, random or centred, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hjepa.runtime.random import Purpose, stream

if TYPE_CHECKING:
    from hjepa.data.views import ViewSpec

_ATTEMPTS = 10
_AREA = slice(0, _ATTEMPTS)
_RATIO = slice(_ATTEMPTS, 2 * _ATTEMPTS)
_TOP, _LEFT, _FLIP = 2 * _ATTEMPTS, 2 * _ATTEMPTS + 1, 2 * _ATTEMPTS + 2
_JITTER = slice(_FLIP + 1, _FLIP + 4)
DRAWS = _FLIP + 4
"""Uniform random numbers per view of an image, for crop, flip and colour jitter."""
# The view's number occupies the upper bits of the counter, above any step number.
_VIEW_SHIFT = 48

_GREY, _BLUR, _SIGMA, _SOLARIZE = range(DRAWS, DRAWS + 4)
COLOUR_DRAWS = 4
"""Further random numbers per view, for greyscale, blur and solarisation."""
_SIGMAS = (0.1, 2.0)


class Crops(NamedTuple):
    """Crop boxes of a batch of images."""

    boxes: np.ndarray
    """int64 [B, 4]: top, left, height, width in pixels."""
    flips: np.ndarray
    """bool [B]: whether the crop is flipped left to right."""


def augmentation_draws(seed: int, step: int, global_batch: int, *, view: int = 0) -> np.ndarray:
    """The uniform numbers of one view at a step: float64 [global_batch, DRAWS], row p for global position p.

    A row depends neither on `global_batch` nor on the number of views.
    """
    return stream(Purpose.AUGMENTATION, seed, view << _VIEW_SHIFT | step).random((global_batch, DRAWS))


def view_draws(specs: Sequence[ViewSpec], seed: int, step: int, global_batch: int) -> np.ndarray:
    """The uniform numbers of all views at a step: float64 [global_batch, V, D].

    D is `DRAWS`, plus `COLOUR_DRAWS` from a separate stream if any view uses greyscale, blur or solarisation.

    Args:
        specs: one per view.
        seed: seed of the run.
        step: optimiser step.
        global_batch: images per optimiser step.
    """
    shape = (global_batch, COLOUR_DRAWS)
    more = any(spec.recolours_beyond_jitter for spec in specs)
    views = []
    for view in range(len(specs)):
        draws = augmentation_draws(seed, step, global_batch, view=view)
        if more:
            colours = stream(Purpose.COLOURS, seed, view << _VIEW_SHIFT | step).random(shape)
            draws = np.concatenate([draws, colours], axis=1)
        views.append(draws)
    return np.stack(views, axis=1)


def random_crops(draws: np.ndarray, sizes: np.ndarray, spec: ViewSpec) -> Crops:
    """Boxes of random resized crops (Szegedy et al., arXiv:1409.4842) and random flips.

    The share of the area (uniform in ``scale``) and the aspect ratio (log-uniform in ``ratio``) are drawn
    independently, ten times; the first box that fits the image is placed uniformly. If none fits, the largest centred
    box of the closest allowed ratio is used, as in torchvision.

    Args:
        draws: float64 [B, D], of which the first `DRAWS` are used; D may be 0 for a view without randomness.
        sizes: int64 [B, 2], height and width of each image in pixels.
        spec: specification of the view.
    """
    flips = draws[:, _FLIP] < spec.flip if spec.flip else np.zeros(len(draws), dtype=bool)
    if not spec.random_crop:
        return Crops(centre_boxes(sizes, spec.plane), flips)
    (low, high), (narrow, wide) = spec.scale, spec.ratio
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
    """The largest centred boxes with the aspect ratio of the output, rounded to pixels.

    Args:
        sizes: int64 [B, 2], height and width of each image in pixels.
        out_size: (H, W) of the output.

    Returns:
        int64 [B, 4]: top, left, height, width.
    """
    ratio = out_size[1] / out_size[0]
    return _fallback(sizes, ratio, ratio).astype(np.int64)


def jitter_factors(draws: np.ndarray, strength: float) -> np.ndarray:
    """Factors of brightness, contrast and saturation: float32 [B, 3], uniform in [1 - s, 1 + s]."""
    return (1 - strength + 2 * strength * draws[:, _JITTER]).astype(np.float32)


def colour_table(draws: np.ndarray, spec: ViewSpec) -> np.ndarray | None:
    """Colour parameters of each image: float32 [B, 6] as in `View.colours`; None if the view keeps colours unchanged.

    Args:
        draws: float64 [B, D] of `view_draws`.
        spec: specification of the view.
    """
    if not spec.recolours:
        return None
    table = np.zeros((len(draws), 6), dtype=np.float32)
    table[:, :3] = jitter_factors(draws, spec.color_jitter) if spec.color_jitter else 1
    if spec.recolours_beyond_jitter:
        low, high = _SIGMAS
        table[:, 3] = draws[:, _GREY] < spec.grayscale
        table[:, 4] = np.where(draws[:, _BLUR] < spec.blur, low + (high - low) * draws[:, _SIGMA], 0)
        table[:, 5] = draws[:, _SOLARIZE] < spec.solarize
    return table


def _fallback(sizes: np.ndarray, narrow: float, wide: float) -> np.ndarray:
    height, width = sizes[:, 0], sizes[:, 1]
    box_width = np.clip(np.rint(height * wide), 1, width)
    box_height = np.clip(np.rint(width / narrow), 1, height)
    return np.stack([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width], axis=1)
