"""LiDAR on features whose structure is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from hjepa.metrics import lidar, rankme


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(images: int, samples: int, directions: int, width: int, spread: float = 0.1) -> Tensor:
    """Images that differ in so many directions alike, and samples that differ a little in all."""
    basis = torch.linalg.qr(noise(width, directions, seed=1)).Q
    return (noise(images, directions) @ basis.T)[:, None] + spread * noise(images, samples, width, seed=2)


def test_it_is_the_effective_rank_of_the_generalised_eigenvalues() -> None:
    samples = features(120, 4, 6, 12, 0.5).double() * torch.logspace(0, -1, 12)
    means = samples.mean(dim=1)
    between = np.cov(means.numpy().T)
    within = sum(np.cov(one.numpy().T) for one in samples) / len(samples)
    within += 1e-4 * np.trace(within) / 12 * np.eye(12)
    values = scipy.linalg.eigh(between, within, eigvals_only=True)
    share = values / values.sum() + 1e-7
    assert lidar(samples) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


@pytest.mark.parametrize("directions", [1, 4, 16])
def test_it_counts_the_directions_that_tell_images_apart(directions: int) -> None:
    assert lidar(features(1500, 4, directions, 48, 0.02)) == pytest.approx(directions, rel=0.06)


def test_variance_within_images_does_not_count() -> None:
    # Two directions of content, and sixteen of large differences within an image: RankMe counts all of them.
    content = features(1500, 4, 2, 48, 0.01)
    basis = torch.linalg.qr(noise(48, 16, seed=5)).Q
    varied = content + 3 * noise(1500, 4, 16, seed=6) @ basis.T
    assert lidar(varied) < 4
    assert rankme(varied.mean(dim=1)) > 10


def test_collapses() -> None:
    assert lidar(noise(1, 1, 32).expand(200, 4, 32)) == 0
    # Depends on the sample alone, such as on the position in an image.
    assert lidar(noise(1, 4, 32).expand(200, 4, 32)) == 0
    # Five clusters have four directions between them.
    clusters = noise(5, 32)[torch.arange(1000) % 5]
    assert lidar(clusters[:, None] + 0.01 * noise(1000, 4, 32, seed=3)) < 5


def test_exact_repetitions_count_the_directions_between_images() -> None:
    same = features(400, 1, 8, 24, 0.0).expand(400, 3, 24)
    assert lidar(same) == pytest.approx(8, rel=0.05)


def test_it_ignores_scale_and_rotation() -> None:
    samples = features(300, 4, 6, 20)
    turn = torch.linalg.qr(noise(20, 20, seed=4)).Q
    assert lidar(1e3 * samples @ turn) == pytest.approx(lidar(samples), rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 4, 8), (4, 1, 8), (4, 8)])
def test_too_few_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two of each at least"):
        lidar(noise(*shape))


def test_values_that_are_not_finite_are_refused() -> None:
    samples = noise(4, 4, 8)
    samples[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="samples: NaN"):
        lidar(samples)
