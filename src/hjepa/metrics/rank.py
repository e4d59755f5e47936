"""Label-free measures of representation collapse.

Use *pooled* features of at least a thousand different images: token features after a layer norm look healthy by
construction, and no rank can exceed the number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa.metrics.moments import check_features, exact, gram, mean_and_std


def rankme(features: Tensor, *, eps: float = 1e-7) -> float:
    """RankMe (arXiv:2210.02885): the effective rank, exp of the entropy of the normalised singular values.

    As in the paper, the features are not centred: if all images had the same vector plus a little noise, centring would
    leave only the noise, with full rank.

    Args:
        features: [N, D].
        eps: added to each share, as in the paper.

    Returns:
        between 1 (all rows parallel) and ``min(N, D)`` (all directions equally strong); 0 if all features are zero.
    """
    check_features(features)
    # The smaller of the two Gram matrices has the same non-zero eigenvalues, the squared singular values.
    rows, width = features.shape
    matrix = exact(features)
    square = gram(features) if width <= rows else (matrix @ matrix.T).cpu()
    singular = torch.linalg.eigvalsh(square).clamp_min(0).sqrt()
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular / total + eps
    return float((-(share * share.log()).sum()).exp().clamp(1, len(singular)))


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of each dimension over the images, [D] float64; all near 0 means complete collapse."""
    check_features(features)
    return mean_and_std(features)[1]


def mean_cosine(features: Tensor) -> float:
    """Mean cosine similarity between different images, -1 to 1; near 1 all images have similar features.

    Computed from the sum of the unit vectors, without the [N, N] matrix. A row of zeros counts as orthogonal to all
    others.

    Raises:
        ValueError: fewer than two rows.
    """
    check_features(features)
    count = features.shape[0]
    if count < 2:
        raise ValueError("features: only one image; give at least two to compare")
    unit = torch.nn.functional.normalize(exact(features), dim=1)
    own = unit.square().sum()
    return float((unit.sum(dim=0).square().sum() - own) / (count * (count - 1)))
