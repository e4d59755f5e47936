"""Few-shot classification: accuracy of the nearest class centroid over random episodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics.moments import check_features

_EPISODES_AT_ONCE = 100


@dataclass(frozen=True)
class Episodes:
    """Rows of images for N-way K-shot episodes.

    Attributes:
        support: int64 [E, N, K], the labelled images of every episode by class.
        query: int64 [E, N, Q], the images to classify.
    """

    support: Tensor
    query: Tensor


def draw_episodes(
    labels: Tensor, *, ways: int, shots: int, queries: int, episodes: int, generator: np.random.Generator
) -> Episodes:
    """Draw episodes: ``ways`` classes each, and of each class ``shots`` labelled and ``queries`` other images.

    Args:
        labels: [N] int64.
        ways: classes per episode.
        shots: labelled images per class.
        queries: images to classify per class.
        episodes: number of episodes.
        generator: random numbers.

    Raises:
        ValueError: fewer than ``ways`` classes have ``shots + queries`` images.
    """
    values = labels.cpu().numpy()
    each = shots + queries
    members = [found for label in np.unique(values) if len(found := np.flatnonzero(values == label)) >= each]
    if len(members) < ways:
        raise ValueError(f"{len(members)} classes have {each} images, but an episode needs {ways}")
    drawn = np.empty((episodes, ways, each), dtype=np.int64)
    for episode in drawn:
        for row, number in zip(episode, generator.choice(len(members), ways, replace=False), strict=True):
            row[:] = generator.choice(members[number], each, replace=False)
    return Episodes(torch.from_numpy(drawn[..., :shots]), torch.from_numpy(drawn[..., shots:]))


def episode_accuracy(features: Tensor, episodes: Episodes) -> Tensor:
    """Accuracy of every episode, float64 [E]: a query belongs to the class whose centroid is nearest (Euclidean).

    Nearest centroids as in prototypical networks (arXiv:1703.05175), without training. Prepare features with
    `centred_unit`, as SimpleShot (arXiv:1911.04623) does.

    Args:
        features: [N, D].
        episodes: rows of them.
    """
    check_features(features)
    found = []
    for support, query in zip(
        torch.split(episodes.support, _EPISODES_AT_ONCE), torch.split(episodes.query, _EPISODES_AT_ONCE), strict=True
    ):
        _, ways, queries = query.shape
        centroids = features[support.to(features.device)].mean(dim=2)  # [e, N, D]
        asked = features[query.to(features.device)].flatten(1, 2)  # [e, N * Q, D]
        # |q|^2 is the same for all classes.
        distance = centroids.square().sum(dim=2)[:, None, :] - 2 * asked @ centroids.transpose(1, 2)
        truth = torch.arange(ways, device=features.device).repeat_interleave(queries)
        found.append((distance.argmin(dim=2) == truth).double().mean(dim=1).cpu())
    return torch.cat(found)


def centred_unit(features: Tensor, mean: Tensor) -> Tensor:
    """Features [N, D] minus a mean [D] of other images, L2-normalised per row: "CL2N" of SimpleShot."""
    return F.normalize(features.float() - mean.to(features.device).float(), dim=1)


def interval(values: Tensor, *, confidence: float = 0.95) -> tuple[float, float | None]:
    """Mean of independent values and half the width of its confidence interval, by Student's t.

    Args:
        values: float [n].
        confidence: of the interval, 0 to 1.

    Returns:
        the mean, and the half-width, which is None for fewer than two values.
    """
    from scipy import stats

    count = len(values)
    mean = float(values.double().mean())
    if count < 2:
        return mean, None
    factor = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    return mean, factor * float(values.double().std()) / count**0.5
