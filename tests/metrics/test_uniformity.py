"""Alignment and uniformity against their definition."""

import math

import pytest
import torch

from hjepa.metrics import alignment, uniformity


def test_uniformity_equals_the_mean_over_all_pairs() -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(30) for j in range(i)]
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)))


def test_collapsed_features_are_not_uniform_and_opposite_views_not_aligned() -> None:
    same = torch.ones(10, 4)
    assert uniformity(same) == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.randn(500, 64, generator=torch.Generator().manual_seed(1))) < -3.5
    assert alignment(same, 3 * same) == pytest.approx(0)
    assert alignment(same, -same) == pytest.approx(4)
    with pytest.raises(ValueError, match="give 2 to"):
        uniformity(torch.ones(1, 4))
