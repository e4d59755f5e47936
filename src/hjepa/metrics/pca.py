"""Principal components of a feature or pixel matrix, by scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hjepa.metrics.moments import check_features, mean_and_std


@dataclass(frozen=True)
class PCA:
    """A fitted projection. Components are unit rows in order of decreasing variance, with their largest entry positive.

    Attributes:
        mean: [D] float32.
        components: [K, D] float32.
        variance: variance along each component, [K] float64.
        total_variance: sum over all D directions; ``variance / total_variance`` is the explained share.
    """

    mean: Tensor
    components: Tensor
    variance: Tensor
    total_variance: float

    @classmethod
    def fit(cls, features: Tensor, components: int) -> PCA:
        """Fit to [N, D] features, on the CPU, in float32.

        Decomposes the covariance matrix if there are at least as many rows as columns, and the features otherwise. Both
        are exact; the randomised solver, scikit-learn's default for wide matrices, is inaccurate for the last of 128
        components.

        Args:
            features: the rows.
            components: K, at most ``min(N, D)``.

        Raises:
            ValueError: K out of range.
        """
        from sklearn import decomposition
        from threadpoolctl import threadpool_limits

        check_features(features)
        count, width = features.shape
        if not 1 <= components <= min(count, width):
            raise ValueError(f"components: {components} of features {[count, width]}; use 1 to {min(count, width)}")
        mean, std = mean_and_std(features)
        # Centred here: scikit-learn subtracts the mean after the products, where a large mean cancels a small spread.
        centred = features.detach().float().cpu() - mean.float()
        solver = "covariance_eigh" if count >= width else "full"
        # NumPy would start a thread per CPU, ignoring PyTorch's setting. The error state silences a division by zero
        # for constant features, in a value that is not used.
        with threadpool_limits(torch.get_num_threads(), user_api="blas"), np.errstate(invalid="ignore"):
            found = decomposition.PCA(components, svd_solver=solver, copy=False).fit(centred.numpy())
        vectors = torch.from_numpy(found.components_)
        # For a single row scikit-learn's variance, which divides by N - 1, is NaN.
        variance = torch.from_numpy(found.explained_variance_).double().nan_to_num() * (count - 1) / count
        device = features.device
        return cls(mean.float().to(device), vectors.to(device), variance, float(std.square().sum()))

    def transform(self, features: Tensor) -> Tensor:
        """Project [N, D] features to [N, K] float32."""
        return (features.float() - self.mean) @ self.components.T
