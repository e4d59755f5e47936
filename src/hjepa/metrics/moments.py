"""First and second moments of a feature matrix, and checks of its shape and values."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_ROWS = 4096


def check_features(features: Tensor, name: str = "features") -> None:
    """Check that features are a finite, non-empty [N, D] matrix of floating-point numbers.

    Raises:
        ValueError: they are not; the message names the argument and the problem.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name}: expected a non-empty matrix [images, width], got shape {list(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name}: expected floating-point features, got {features.dtype}")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name}: NaN or infinite values; the encoder has diverged")


def exact(features: Tensor) -> Tensor:
    """The features in float64, detached; moved to the CPU if their device has no float64 (Apple MPS)."""
    features = features.detach()
    return features.to("cpu" if features.device.type == "mps" else features.device, torch.float64)


def mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation per dimension, [D] each, float64 on the CPU.

    Two passes over blocks of rows, so that a large mean does not cancel a small spread, and the matrix is not copied.
    """
    count = features.shape[0]
    mean = torch.zeros(features.shape[1], dtype=torch.float64)
    for block in torch.split(features, _BLOCK_ROWS):
        mean += exact(block).sum(dim=0).cpu()
    mean /= count
    spread = torch.zeros_like(mean)
    for block in torch.split(features, _BLOCK_ROWS):
        block = exact(block)
        spread += (block - mean.to(block.device)).square().sum(dim=0).cpu()
    return mean, (spread / count).sqrt()


def gram(features: Tensor, *, mean: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """``(X - mean)^T (X - mean)`` as [D, D], float64 on the CPU.

    Args:
        features: [N, D].
        mean: [D], subtracted from every row in float64; None subtracts nothing.
        dtype: type of the products. float32 is several times faster for wide features and accurate enough for a
            preconditioner or the leading components; blocks are summed in float64 in either case.
    """
    total = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for block in torch.split(features, _BLOCK_ROWS):
        if mean is not None:
            block = exact(block)
            block = block - mean.to(block.device)
        elif dtype == torch.float64:
            block = exact(block)
        block = block.detach().to(dtype)
        total += (block.T @ block).cpu().double()
    return total
