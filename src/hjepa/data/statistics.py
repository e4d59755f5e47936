"""Mean and standard deviation per channel, for normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import BadFile, ImageDataset
from hjepa.data.images.decode import UnreadableImageError, unit_scale
from hjepa.errors import DataError
from hjepa.runtime.random import Purpose, stream

MAX_IMAGES = 10_000

# One 8-bit grey level: dividing a constant channel by less would amplify rounding noise.
_LEAST_STD = 1 / 255
_BLOCK = 100


def measure_statistics(dataset: ImageDataset, seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the pixels of up to 10,000 images.

    Every image has the same weight regardless of size, as the model sees all images at one size.

    Args:
        dataset: usually the training split.
        seed: draws the images if there are more than 10,000.

    Returns:
        mean and std, one value per channel, for pixel values in [0, 1]; std is at least 1/255.

    Raises:
        DataError: no image can be read, or one cannot be read under ``data.bad_images=stop``.
    """
    rows = np.sort(dataset.first(stream(Purpose.STATISTICS, seed).permutation(len(dataset)), MAX_IMAGES))
    mean = torch.zeros(dataset.channels, dtype=torch.float64)
    square = torch.zeros_like(mean)
    used = 0
    for images in _blocks(dataset, rows):
        # In float64: the difference of squares below loses digits, too many in float32 for 16-bit images.
        values = images.to(torch.float64) * unit_scale(images.dtype)
        mean += values.mean(dim=(2, 3)).sum(dim=0)
        square += values.square().mean(dim=(2, 3)).sum(dim=0)
        used += len(images)
    if not used:
        raise DataError(f"data.dataset={dataset.name}: no image can be read; check data.data_path")
    mean /= used
    std = (square / used - mean.square()).clamp(min=0).sqrt().clamp(min=_LEAST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())


def _blocks(dataset: ImageDataset, rows: np.ndarray) -> Iterator[Tensor]:
    """Blocks of images [b, C, h, w]; single images unless all have one size and are in memory."""
    if dataset.images is not None:
        for part in torch.split(torch.from_numpy(rows), _BLOCK):
            yield dataset.images[part]
        return
    for index in rows.tolist():
        try:
            yield dataset.pixels.read(index)[None]
        except UnreadableImageError as error:
            dataset.note_bad(BadFile(dataset.identifiers[index], str(error)))
