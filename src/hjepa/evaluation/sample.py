"""Which images an evaluation uses: seeded, and balanced over classes where it matters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hjepa.runtime.random import Purpose, stream


def draw_train(
    labels: Tensor | None, size: int, count: int | None, seed: int, withheld: Tensor | None = None
) -> Tensor:
    """Rows of the training split that serve as references, int64 ascending.

    With labels: labelled images only, as evenly over the classes as possible. Without: any images. Withholding images
    does not change the order of the others.

    Args:
        labels: int64 [size], -1 for none.
        size: number of images in the split.
        count: maximum number of rows; all when not given.
        seed: seed of the draw.
        withheld: bool [size], validation images, which are never references; none when not given.
    """
    values = _labels(labels, size)
    order = stream(Purpose.REFERENCES, seed).permutation(size)
    if withheld is not None:
        order = order[~withheld.numpy()[order]]
    if (values >= 0).any():
        order = order[values[order] >= 0]
    if count is None or count >= len(order):
        return torch.from_numpy(np.sort(order))
    # The first image of every class, then the second of every class, and so on.
    turn = np.empty(len(order), dtype=np.int64)
    for label in np.unique(values[order]):
        members = np.flatnonzero(values[order] == label)
        turn[members] = np.arange(len(members))
    return torch.from_numpy(np.sort(order[np.argsort(turn, kind="stable")[:count]]))


def draw_read(labels: Tensor | None, size: int, count: int | None, seed: int) -> Tensor:
    """Rows of a split to evaluate on, int64 ascending: labelled images (if there are any), ``count`` of them at random,
    or all when not given."""
    values = _labels(labels, size)
    order = stream(Purpose.READ, seed).permutation(size)
    if (values >= 0).any():
        order = order[values[order] >= 0]
    return torch.from_numpy(np.sort(order if count is None else order[:count]))


def _labels(labels: Tensor | None, size: int) -> np.ndarray:
    return np.full(size, -1, dtype=np.int64) if labels is None else labels.numpy()
