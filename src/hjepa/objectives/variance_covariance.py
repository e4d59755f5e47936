"""VICReg's variance and covariance terms on pooled features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def variance_loss(features: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Hinge on the standard deviation of every feature over images (VICReg, arXiv:2105.04906, eq. 1).

    There is no invariance term: different images are never pulled together.

    Args:
        features: [B, D], one pooled vector per image; B at least 2.
        target_std: deviations above it cost nothing.

    Returns:
        scalar between 0 and ``target_std``.
    """
    std = torch.sqrt(features.float().var(dim=0) + eps)
    return F.relu(target_std - std).mean()


def covariance_loss(features: Tensor) -> Tensor:
    """Squared off-diagonal covariances, summed and divided by the width (VICReg, arXiv:2105.04906, eq. 3).

    Args:
        features: [B, D]; B at least 2.
    """
    x = features.float()
    x = x - x.mean(dim=0)
    covariance = x.T @ x / (len(x) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]


def flop_of_covariance(rows: int, width: int) -> float:
    """FLOP of `covariance_loss` of [rows, width]: one product forward, and backward one for each of its two factors."""
    return 3.0 * 2 * rows * width * width
