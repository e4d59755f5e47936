"""Distances between predictions and targets, averaged over images and cells."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 loss: Huber's loss with threshold 1 (Girshick, arXiv:1504.08083), per feature.

    Args:
        prediction, target: [B, N, D].

    Returns:
        [B, N, D].
    """
    return F.smooth_l1_loss(prediction, target, reduction="none")


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared difference per feature, [B, N, D]."""
    return F.mse_loss(prediction, target, reduction="none")


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute difference per feature, [B, N, D] (V-JEPA, arXiv:2404.08471)."""
    return F.l1_loss(prediction, target, reduction="none")


ELEMENTWISE: dict[str, Distance] = {"smoothl1": smooth_l1, "mse": mse, "l1": l1}


def elementwise_loss(distance: Distance, prediction: Tensor, target: Tensor, *, normalize: bool) -> Tensor:
    """Reduce a per-feature distance to a scalar.

    Args:
        prediction, target: [B, N, D].
        normalize: compare unit vectors. The distance is then summed over the width, since a mean would shrink with the
            width (smooth L1 of unit vectors is 1 - cos when summed, (1 - cos) / D when averaged).

    Returns:
        scalar: mean over images and cells, and over the width unless normalised.
    """
    if normalize:
        unit = distance(F.normalize(prediction, dim=-1), F.normalize(target, dim=-1))
        return unit.sum(dim=-1).mean()
    return distance(prediction, target).mean()


def cosine_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - cosine similarity, averaged over images and cells; 0 to 2.

    Args:
        prediction, target: [B, N, D].
    """
    return (1 - F.cosine_similarity(prediction, target, dim=-1)).mean()
