"""Principal components of a feature or pixel matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa.metrics.moments import check_features, gram, mean_and_std

_EXACT_UP_TO = 1024  # widths for which a full eigendecomposition takes less than a second
_OVERSAMPLING = 16
_MAX_ITERATIONS = 100


@dataclass(frozen=True)
class PCA:
    """A fitted projection. Components are unit rows, by falling variance; signs are fixed (largest entry positive)."""

    mean: Tensor
    """``[D]`` float32."""
    components: Tensor
    """``[K, D]`` float32."""
    variance: Tensor
    """Variance along each component, ``[K]`` float64."""
    total_variance: float
    """Sum over all D directions, so that ``variance / total_variance`` is the share explained."""

    @classmethod
    def fit(cls, features: Tensor, components: int) -> PCA:
        """Fit to ``[N, D]`` features.

        Args:
            features: the rows.
            components: K, at most ``min(N, D)``.

        Raises:
            ValueError: K out of range.
        """
        check_features(features)
        limit = min(features.shape)
        if not 1 <= components <= limit:
            raise ValueError(f"components: {components} of features {list(features.shape)}; use 1 to {limit}")
        mean, std = mean_and_std(features)
        wide = features.shape[1] > _EXACT_UP_TO
        covariance = gram(features, mean=mean, dtype=torch.float32 if wide else torch.float64)
        covariance /= features.shape[0]
        variance, vectors = _leading(covariance, components) if wide else _all(covariance, components)
        largest = vectors.abs().argmax(dim=0)
        vectors = vectors * vectors[largest, torch.arange(components)].sign()
        device = features.device
        return cls(
            mean=mean.float().to(device),
            components=vectors.T.contiguous().float().to(device),
            variance=variance.clamp_min(0),
            total_variance=float(std.square().sum()),
        )

    def transform(self, features: Tensor) -> Tensor:
        """Project ``[N, D]`` features to ``[N, K]`` float32."""
        return (features.float() - self.mean) @ self.components.T


def _all(covariance: Tensor, components: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0)[:components], vectors.flip(1)[:, :components]


def _leading(covariance: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Subspace iteration (arXiv:0909.4061) from a fixed start until the leading variances stand still."""
    width = covariance.shape[0]
    columns = min(width, components + _OVERSAMPLING)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(width, columns, generator=generator, dtype=torch.float64)
    before = torch.zeros(columns, dtype=torch.float64)
    product = covariance @ basis
    for _ in range(_MAX_ITERATIONS):
        basis = torch.linalg.qr(product).Q
        product = covariance @ basis
        values, rotation = torch.linalg.eigh(basis.T @ product)
        values, rotation = values.flip(0), rotation.flip(1)
        basis, product = basis @ rotation, product @ rotation
        change = (values - before)[:components].abs().max()
        before = values
        if change <= 1e-5 * values[0]:
            break
    return before[:components], basis[:, :components]
