"""Measures of features that are untrained, healthy, or collapsed in a known way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hjepa.health.measures import LevelMeasures, Measuring
from hjepa.metrics import lidar, mean_cosine, position_share, rankme


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measure(cells: Tensor, batch: int = 100) -> LevelMeasures:
    measuring = Measuring()
    for part in cells.split(batch):
        measuring.add([part])
    (measures,) = measuring.measures()
    return measures


def healthy(images: int = 1000, cells: int = 16, width: int = 32) -> Tensor:
    """Every cell tells of its image, of its position and of itself."""
    return noise(images, 1, width) + 0.5 * noise(1, cells, width, seed=1) + 0.5 * noise(images, cells, width, seed=2)


def test_they_equal_the_metrics_of_all_features_whatever_the_batches() -> None:
    cells = healthy() + 3
    found = measure(cells, 64)
    pooled = cells.mean(dim=1)
    assert found.rank == pytest.approx(rankme(pooled), rel=1e-6)
    assert found.cosine == pytest.approx(mean_cosine(pooled), rel=1e-6)
    assert found.position == pytest.approx(position_share(cells), rel=1e-6)
    assert found.spread == pytest.approx(
        float(pooled.std(dim=0, correction=0).norm() / pooled.square().mean(0).sum().sqrt())
    )
    assert measure(cells, 1000).record(0) == pytest.approx(found.record(0), rel=1e-6)


def test_healthy_features() -> None:
    found = measure(healthy())
    assert found.finite
    assert found.spread > 0.9
    assert found.rank > 28
    assert found.lidar is not None
    assert found.lidar > 25
    assert found.position is not None
    assert found.position < 0.3
    assert found.dead == 0


@pytest.mark.parametrize("width", [8, 32])
def test_constant_features(width: int) -> None:
    found = measure(noise(1, 1, width).expand(300, 16, width))
    assert found.spread < 1e-6
    assert found.rank == pytest.approx(1, abs=1e-3)
    assert found.cosine == pytest.approx(1)
    assert found.lidar == 0
    assert found.position is None


def test_features_of_low_rank() -> None:
    found = measure(healthy(width=3) @ noise(3, 32, seed=4))
    assert found.rank < 4
    assert found.lidar is not None
    assert found.lidar < 4


def test_features_of_few_clusters() -> None:
    centres = noise(4, 1, 32)[torch.arange(1000) % 4]
    found = measure(centres + 0.05 * noise(1000, 16, 32, seed=3))
    assert found.rank < 6
    assert found.lidar is not None
    assert found.lidar < 4.5


def test_features_that_say_the_position_only() -> None:
    found = measure(noise(1, 16, 32) + 0.01 * noise(1000, 16, 32, seed=1))
    assert found.position is not None
    assert found.position > 0.99
    assert found.cosine is not None
    assert found.cosine > 0.99
    assert found.spread < 0.05


def test_dead_dimensions_are_counted() -> None:
    cells = healthy()
    cells[..., :8] = 0.5
    assert measure(cells).dead == pytest.approx(8 / 32)


def test_features_that_are_not_finite() -> None:
    cells = healthy(40)
    cells[7, 3, 5] = math.nan
    found = measure(cells)
    assert not found.finite
    assert found.rank == 0
    assert found.record(2) == {"std/level_2": 0.0, "dead/level_2": 1.0, "rank/level_2": 0.0}


def test_one_image_and_one_cell_leave_out_what_they_cannot_say() -> None:
    assert measure(healthy(1)).cosine is None
    whole = measure(healthy(50, 1))
    assert (whole.lidar, whole.position) == (None, None)
    assert whole.rank > 1
    two = Measuring()
    two.add([healthy(20, 2), healthy(20, 4)])
    measures = two.measures()
    assert all(level.lidar is not None for level in measures)
    assert lidar(healthy(20, 2)) == pytest.approx(measures[0].lidar or 0, rel=1e-5)
    with pytest.raises(ValueError, match="no features"):
        Measuring().measures()
