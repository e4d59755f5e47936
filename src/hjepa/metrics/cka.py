"""Similarity of two representations of the same images: linear centred kernel alignment."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hjepa.metrics.moments import check_features, exact


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA (arXiv:1905.00414), computed in feature space.

    Invariant to rotation and to isotropic scaling of either side. Needs clearly more images than dimensions, since with
    few images any two representations look alike.

    Args:
        first: [N, D1].
        second: [N, D2], the same images in the same order.

    Returns:
        0 (nothing in common) to 1 (equal up to rotation and scale); NaN if either side is constant.

    Raises:
        ValueError: different numbers of images.
    """
    return float(cka_matrix([first, second])[0, 1])


def cka_matrix(levels: Sequence[Tensor]) -> Tensor:
    """Linear CKA of every pair, [L, L] float64; see `linear_cka`."""
    for i, features in enumerate(levels):
        check_features(features, f"level {i}")
        if features.shape[0] != levels[0].shape[0]:
            raise ValueError(
                f"level {i}: {features.shape[0]} images, but level 0 has {levels[0].shape[0]}; compare the same images"
            )
    centred = [_centre(features) for features in levels]
    overlap = torch.eye(len(levels), dtype=torch.float64)
    for i, left in enumerate(centred):
        for j in range(i + 1):
            overlap[i, j] = overlap[j, i] = (left.T @ centred[j]).square().sum()
    scale = overlap.diagonal().sqrt()
    return (overlap / (scale[:, None] * scale[None, :])).clamp(0, 1)


def _centre(features: Tensor) -> Tensor:
    values = exact(features)
    centred = values - values.mean(dim=0)
    # Set to zero what rounding leaves of a constant column.
    noise = 1e-12 * values.abs().amax(dim=0)
    return torch.where(centred.abs().amax(dim=0) > noise, centred, 0.0)
