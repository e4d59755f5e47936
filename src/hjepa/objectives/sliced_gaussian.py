"""A sliced test of pooled features against the standard normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

_SLICES = 256


def sliced_gaussian_loss(features: Tensor, *, seed: int, slices: int = _SLICES, points: int = 17) -> Tensor:
    """Epps-Pulley statistic of random one-dimensional projections (SIGReg of LeJEPA, arXiv:2511.08544).

    The features are *not* standardised first: a test on standardised projections cannot see collapse.

    Args:
        features: [B, D], one pooled vector per image.
        seed: of the random directions; change it every step.
        slices: number of directions.
        points: number of frequencies at which characteristic functions are compared.

    Returns:
        scalar, 0 for a perfect match.
    """
    generator = torch.Generator().manual_seed(seed)
    x = features.float()
    directions = torch.randn(x.shape[1], slices, generator=generator).to(x.device, non_blocking=True)
    projected = x @ (directions / directions.norm(dim=0))  # [B, slices]
    # The integrand is even in t, so half of the axis does.
    t = torch.linspace(0, 5, points, device=x.device)
    normal = torch.exp(-0.5 * t.square())
    phase = projected.unsqueeze(-1) * t  # [B, slices, points]
    real = phase.cos().mean(dim=0) - normal
    imaginary = phase.sin().mean(dim=0)
    difference = (real.square() + imaginary.square()) * normal
    return 2 * torch.trapezoid(difference, t, dim=-1).mean()


def flop_of_sliced_gaussian(rows: int, width: int, slices: int = _SLICES) -> float:
    """FLOP of the projections of [rows, width], forward and backward; directions need no gradient."""
    return 2.0 * 2 * rows * width * slices
