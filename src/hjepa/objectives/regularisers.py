"""Regularisers on pooled features: VICReg's variance and covariance, and a sliced normality test."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SLICES = 256


def variance_loss(features: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Hinge on the standard deviation of every feature over images (VICReg, arXiv:2105.04906, eq. 1).

    There is no invariance term, so different images are never pulled together.

    Args:
        features: [B, D], one pooled vector per image; B at least 2.
        target_std: standard deviations above it are not penalised.

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
    """FLOP of `covariance_loss` of [rows, width]: one product forward, and two backward, one per factor."""
    return 3.0 * 2 * rows * width * width


def sliced_gaussian_loss(features: Tensor, *, seed: int, slices: int = _SLICES, points: int = 17) -> Tensor:
    """Epps-Pulley statistic of random one-dimensional projections (SIGReg of LeJEPA, arXiv:2511.08544).

    The features are *not* standardised first, as a test on standardised projections cannot detect collapse.

    Args:
        features: [B, D], one pooled vector per image.
        seed: seed of the random directions; change it every step.
        slices: number of directions.
        points: number of frequencies at which characteristic functions are compared.

    Returns:
        scalar, 0 for a perfect match.
    """
    generator = torch.Generator().manual_seed(seed)
    x = features.float()
    directions = torch.randn(x.shape[1], slices, generator=generator).to(x.device, non_blocking=True)
    projected = x @ (directions / directions.norm(dim=0))  # [B, slices]
    # The integrand is even in t, so half of the axis suffices.
    t = torch.linspace(0, 5, points, device=x.device)
    normal = torch.exp(-0.5 * t.square())
    phase = projected.unsqueeze(-1) * t  # [B, slices, points]
    real = phase.cos().mean(dim=0) - normal
    imaginary = phase.sin().mean(dim=0)
    difference = (real.square() + imaginary.square()) * normal
    return 2 * torch.trapezoid(difference, t, dim=-1).mean()


def flop_of_sliced_gaussian(rows: int, width: int, slices: int = _SLICES) -> float:
    """FLOP of the projections of [rows, width], forward and backward; the directions need no gradient."""
    return 2.0 * 2 * rows * width * slices
