"""Properties of losses and regularisers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hjepa.objectives import (
    Candidates,
    Objective,
    covariance_loss,
    info_nce,
    level_loss,
    sliced_gaussian_loss,
    variance_loss,
)

LOSSES = ["smoothl1", "mse", "l1", "cosine", "infonce"]


def normalised(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.layer_norm(x, (shape[-1],))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_perfect_prediction_has_the_lowest_loss_below_chance(loss: str, normalize: bool) -> None:
    target = normalised(4, 16, 32)
    objective = Objective(loss, [1.0], normalize=normalize, candidates=Candidates(4, 16))
    perfect = objective([target], [target], [target.mean(1)]).levels[0]
    wrong = objective([normalised(4, 16, 32, seed=1)], [target], [target.mean(1)]).levels[0]
    chance = objective.chance([target])[0]
    assert perfect < 0.6 * chance < wrong


@pytest.mark.parametrize("width", [16, 256])
def test_the_loss_of_unit_vectors_does_not_shrink_with_the_width(width: int) -> None:
    prediction, target = normalised(64, 8, width), normalised(64, 8, width, seed=1)
    value = level_loss(prediction, target, "smoothl1", normalize=True, temperature=1)
    # Huber's quadratic branch: |p - t|^2 / 2 = 1 - cos, and independent directions have cos near 0.
    assert value == pytest.approx(1.0, abs=0.05)
    cosine = 1 - F.cosine_similarity(prediction, target, dim=-1).mean()
    assert value == pytest.approx(float(cosine), abs=1e-3)  # a few differences exceed 1, on the linear branch


def test_known_values() -> None:
    zero, half = torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.5)
    expected = {"smoothl1": 0.125, "mse": 0.25, "l1": 0.5}
    for loss, value in expected.items():
        assert level_loss(half, zero, loss, normalize=False, temperature=1) == pytest.approx(value)


def test_chance_of_infonce_is_the_logarithm_of_the_candidates() -> None:
    target = normalised(8, 32, 64)
    chosen = Candidates(8, 32)
    chance = Objective("infonce", [1.0], temperature=0.1, candidates=chosen).chance([target])[0]
    assert chance == pytest.approx(math.log(8 * 32))
    untrained = info_nce(normalised(8, 32, 64, seed=9), target, 1.0, candidates=chosen)
    assert untrained == pytest.approx(float(chance), rel=0.02)
    assert info_nce(target, target, 0.01, candidates=chosen) < 0.05


def test_chance_falls_to_zero_when_targets_collapse() -> None:
    collapsed = normalised(1, 1, 32).expand(8, 16, 32)
    for loss in ("smoothl1", "mse", "l1", "cosine"):
        assert Objective(loss, [1.0]).chance([collapsed])[0] == pytest.approx(0, abs=1e-5)


def test_level_weights_scale_the_losses() -> None:
    levels = [normalised(4, 8, 16, seed=s) for s in range(2)]
    predictions = [torch.zeros_like(t) for t in levels]
    pooled = [t.mean(1) for t in levels]
    both = Objective("mse", [1.0, 0.5])(predictions, levels, pooled)
    assert both.total == pytest.approx(float(both.levels[0] + 0.5 * both.levels[1]))
    assert Objective("mse", [0.0, 1.0])(predictions, levels, pooled).total == pytest.approx(float(both.levels[1]))


def test_variance_term_is_positive_for_collapse_and_zero_for_spread_features() -> None:
    assert variance_loss(torch.ones(64, 8)) > 0.98
    assert variance_loss(5 * normalised(64, 8)) < 0.01


def test_covariance_term_penalises_copies_of_one_feature() -> None:
    one = torch.randn(256, 1, generator=torch.Generator().manual_seed(0))
    assert covariance_loss(one.expand(256, 8)) > 10 * covariance_loss(normalised(256, 8))
    x = normalised(50, 6)
    expected = torch.cov(x.T)
    expected.fill_diagonal_(0)
    assert covariance_loss(x) == pytest.approx(float(expected.square().sum() / 6), rel=1e-4)


def test_sliced_gaussian_is_smallest_for_a_standard_normal_and_penalises_collapse() -> None:
    gaussian = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    good = sliced_gaussian_loss(gaussian, seed=0)
    for other in (torch.zeros(2000, 16), 3 * gaussian, gaussian + 1, gaussian[:, :1].expand(-1, 16)):
        assert sliced_gaussian_loss(other, seed=0) > 5 * good


def test_regularisers_move_different_images_apart() -> None:
    features = 0.1 * normalised(32, 8)
    features.requires_grad_()
    (variance_loss(features) + covariance_loss(features)).backward()
    assert features.grad is not None
    moved = (features - 0.1 * features.grad).detach()
    assert torch.pdist(moved).mean() > torch.pdist(features.detach()).mean()


def test_regularisers_are_reported_unweighted_and_added_weighted() -> None:
    target = [normalised(16, 4, 8)]
    pooled = [normalised(16, 8, seed=3)]
    objective = Objective("mse", [1.0], variance=0.3, covariance=0.2, sliced_gaussian=0.1, seed=1)
    terms = objective(target, target, pooled, step=2)
    parts = terms.regularisers
    expected = 0.3 * parts["variance"] + 0.2 * parts["covariance"] + 0.1 * parts["sliced_gaussian"]
    assert terms.total == pytest.approx(float(expected), rel=1e-5)


def test_all_levels_can_be_regularised_in_equal_parts() -> None:
    target = [normalised(4, 16, 32)] * 2
    collapsed, spread = torch.zeros(8, 32), 3 * normalised(8, 32)
    last, every = (Objective("mse", [1.0, 1.0], variance=0.5, regularise_all=each) for each in (False, True))
    # A term on the coarsest level does not detect collapse of a finer one.
    assert last(target, target, [collapsed, spread]).regularisers["variance"] == variance_loss(spread)
    both = every(target, target, [collapsed, spread]).regularisers["variance"]
    assert both == pytest.approx((variance_loss(collapsed) + variance_loss(spread)).item() / 2)


def test_directions_of_the_sliced_test_change_with_the_step() -> None:
    pooled = [normalised(16, 8)]
    objective = Objective("mse", [1.0], sliced_gaussian=1.0)
    target = [normalised(16, 4, 8)]
    a, again, b = (objective(target, target, pooled, step=s).total for s in (0, 0, 1))
    assert a == again
    assert a != b


def test_an_unknown_loss_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="hinge"):
        level_loss(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), "hinge", normalize=False, temperature=1)


def test_learned_scales_converge_to_the_losses_so_that_levels_have_equal_weight() -> None:
    objective = Objective("mse", [1.0, 1.0])
    target = normalised(4, 8, 16)
    predictions = [(0.9 * target).requires_grad_(), (0.2 * target).requires_grad_()]
    pooled = [target.mean(1)] * 2
    log_scales = torch.zeros(2, requires_grad=True)
    at_start = objective(predictions, [target] * 2, pooled, log_scales=log_scales)
    assert at_start.total == objective(predictions, [target] * 2, pooled).total
    optimizer = torch.optim.SGD([log_scales], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        objective(predictions, [target] * 2, pooled, log_scales=log_scales).total.backward()
        optimizer.step()
    assert torch.allclose(log_scales.exp(), at_start.levels, rtol=1e-3)
    easy, hard = torch.autograd.grad(
        objective(predictions, [target] * 2, pooled, log_scales=log_scales.detach()).total, predictions
    )
    # d(log loss) of an error e is 2 / |e|: relative to its error, the nearly solved level has the same weight.
    assert easy.norm() * 0.1 == pytest.approx(float(hard.norm() * 0.8), rel=1e-2)
