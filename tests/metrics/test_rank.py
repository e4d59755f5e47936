"""Rank measures on healthy and on collapsed features."""

import math

import numpy as np
import pytest
import torch

from hjepa.metrics import feature_std, mean_cosine, rankme


def gaussian(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_rankme_equals_its_definition():
    features = gaussian(200, 24) * torch.logspace(0, -2, 24)
    singular = np.linalg.svd(features.double().numpy(), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert rankme(features) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_random_features_are_near_full_rank():
    assert rankme(gaussian(4000, 64)) > 63
    assert rankme(gaussian(4000, 64)) <= 64


@pytest.mark.parametrize("directions", [1, 4, 16])
def test_rank_counts_equally_used_directions(directions):
    basis = torch.linalg.qr(gaussian(64, directions, seed=1)).Q
    assert rankme(gaussian(4000, directions) @ basis.T) == pytest.approx(directions, rel=0.02)


def test_collapsed_features_have_rank_one():
    direction = gaussian(1, 64, seed=2)
    same = direction.expand(2000, 64)
    assert rankme(same) == pytest.approx(1, abs=1e-3)
    # The same vector for all images plus a little noise is a collapse, which centring would hide.
    nearly = same + 1e-3 * gaussian(2000, 64)
    assert rankme(nearly) < 1.5
    assert rankme(nearly - nearly.mean(dim=0)) > 60


def test_rank_falls_as_dimensions_become_constant():
    features = gaussian(2000, 32)
    ranks = []
    for alive in (32, 16, 8, 2):
        features[:, alive:] = 0
        ranks.append(rankme(features))
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] == pytest.approx(2, rel=0.01)


def test_rank_ignores_scale_and_rotation_and_is_capped_by_the_rows():
    features = gaussian(300, 20) * torch.logspace(0, -1, 20)
    turn = torch.linalg.qr(gaussian(20, 20, seed=4)).Q
    assert rankme(1e4 * features @ turn) == pytest.approx(rankme(features), rel=1e-4)
    assert rankme(gaussian(8, 500)) <= 8
    assert rankme(gaussian(8, 500)) == pytest.approx(rankme(gaussian(8, 500).T), rel=1e-4)


def test_features_of_zeros_have_rank_zero():
    assert rankme(torch.zeros(10, 4)) == 0


def test_std_per_dimension():
    features = gaussian(5000, 6) * torch.tensor([0.0, 0.1, 1, 2, 5, 10]) + 1000
    expected = features.double().std(dim=0, correction=0)
    torch.testing.assert_close(feature_std(features), expected)
    assert feature_std(torch.full((100, 3), 7.7)).max() < 1e-12


def test_mean_cosine_equals_the_full_matrix():
    features = gaussian(300, 16) + 0.5
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    matrix = unit @ unit.T
    expected = (matrix.sum() - matrix.diagonal().sum()) / (300 * 299)
    assert mean_cosine(features) == pytest.approx(float(expected), abs=1e-9)


def test_mean_cosine_is_calibrated_in_both_directions():
    assert abs(mean_cosine(gaussian(2000, 64))) < 0.01
    assert mean_cosine(gaussian(1, 64).expand(500, 64) * torch.linspace(1, 9, 500)[:, None]) == pytest.approx(1)
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert mean_cosine(opposite) == pytest.approx(-1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="images, width"):
        rankme(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="NaN"):
        rankme(torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match="at least two"):
        mean_cosine(torch.ones(1, 3))
