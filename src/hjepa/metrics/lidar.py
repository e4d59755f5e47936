"""LiDAR: how many directions tell images apart, measured against the differences within an image."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa.metrics.moments import check_features, exact


def lidar(samples: Tensor, *, ridge: float = 1e-4, eps: float = 1e-7) -> float:
    """LiDAR (arXiv:2312.04000): the effective rank of the linear discriminant analysis between images.

    Every image is a class, and its samples are several features of it. The scatter between images is whitened by the
    scatter within images; the result is exp of the entropy of the normalised eigenvalues. Unlike `rankme`, it counts a
    direction by how much more images differ in it than samples of one image do, not by its variance.

    The paper's samples are augmented views. `hjepa.health.measures` takes averages over random parts of the cells of an
    image instead, which cost no further pass through the encoder.

    Args:
        samples: [N, q, D], q samples of each of N images.
        ridge: added to the scatter within images, as a share of its mean diagonal.
        eps: added to each share, as in the paper.

    Returns:
        between 1 (one direction tells images apart) and ``min(N - 1, D)``; 0 if all images have the same mean.

    Raises:
        ValueError: fewer than two images or samples, or values that are not finite.
    """
    if samples.ndim != 3 or samples.shape[0] < 2 or samples.shape[1] < 2:
        raise ValueError(
            f"samples: expected [images, samples, width] with two of each at least, got {[*samples.shape]}"
        )
    check_features(samples.flatten(0, 1), "samples")
    values = exact(samples).cpu()
    images, each, width = values.shape
    means = values.mean(dim=1)
    centred = (means - means.mean(dim=0)) / (images - 1) ** 0.5
    rest = ((values - means[:, None]) / (images * (each - 1)) ** 0.5).flatten(0, 1)
    between = float(centred.square().sum())
    # Equal means leave rounding errors, whose rank says nothing.
    if between <= 1e-12 * float(means.square().sum(dim=1).mean()):
        return 0.0
    within = rest.T @ rest
    scale = float(within.diagonal().mean())
    # Samples that agree exactly: every direction in which images differ counts alike.
    within.diagonal().add_(ridge * (scale if scale > 0 else between / width))
    factor = torch.linalg.cholesky(within)
    whitened = torch.linalg.solve_triangular(factor, centred.T, upper=False)
    # The squared singular values, from the smaller of the two Gram matrices, which is several times faster.
    square = whitened @ whitened.T if width <= images else whitened.T @ whitened
    share = torch.linalg.eigvalsh(square).clamp_min(0)
    share = share / share.sum() + eps
    return float((-(share * share.log()).sum()).exp().clamp(1, min(images - 1, width)))
