"""Alignment and uniformity on the unit sphere (arXiv:2005.10242)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics.moments import check_features, exact

_LARGEST = 4096


def uniformity(features: Tensor, *, t: float = 2.0) -> float:
    """Log of the mean of ``exp(-t * distance^2)`` over pairs of different images, on L2-normalised features.

    Args:
        features: [N, D], 2 to 4,096 rows.
        t: as in the paper.

    Returns:
        0 if all images have the same direction; about ``-2 * t`` for directions spread evenly in many dimensions.

    Raises:
        ValueError: too few or too many rows, or features that are not finite.
    """
    check_features(features)
    count = len(features)
    if not 2 <= count <= _LARGEST:
        raise ValueError(f"features: {count} images; give 2 to {_LARGEST}, since all pairs are compared")
    unit = F.normalize(exact(features), dim=1)
    upper = torch.triu_indices(count, count, offset=1, device=unit.device)
    similarity = (unit @ unit.T)[upper[0], upper[1]]
    return float((-2 * t * (1 - similarity)).logsumexp(dim=0)) - math.log(len(similarity))


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of L2-normalised features of two views of the same images: 0 (equal) to 4 (opposite).

    Args:
        first: [N, D].
        second: [N, D], the same images in the same order.

    Raises:
        ValueError: different shapes, or features that are not finite.
    """
    check_features(first, "first")
    check_features(second, "second")
    if first.shape != second.shape:
        raise ValueError(f"second: shape {list(second.shape)}, but the first has {list(first.shape)}")
    return float((F.normalize(exact(first), dim=1) - F.normalize(exact(second), dim=1)).square().sum(dim=1).mean())
