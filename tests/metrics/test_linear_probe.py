"""The linear probe, compared with scikit-learn, and the data it may use."""

import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hjepa.metrics import L2_VALUES, linear_probe, stratified_split
from hjepa.metrics.logistic import _Problem, fit_logistic


def problem(count: int, width: int = 20, classes: int = 4, seed: int = 0, signal: float = 0.5):
    """Correlated features with an offset and very different scales, like those of deep networks."""
    shared = torch.Generator().manual_seed(1234)
    centres = torch.randn(classes, width, generator=shared)
    mixing = torch.randn(width, width, generator=shared) * torch.logspace(0, -2, width)
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    latent = signal * centres[labels] + torch.randn(count, width, generator=g)
    return latent @ mixing + 3.0, labels


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_solution_equals_scikit_learn(l2):
    features, labels = problem(600)
    scaled = StandardScaler().fit_transform(features.double().numpy())
    (fit,) = fit_logistic(torch.from_numpy(scaled).float(), labels, [l2], num_classes=4)
    reference = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=20_000)
    reference.fit(scaled, labels.numpy())

    def objective(weight: np.ndarray, bias: np.ndarray) -> float:
        logits = torch.from_numpy(scaled @ weight.T + bias)
        return float(torch.nn.functional.cross_entropy(logits, labels)) + l2 / 2 * float((weight**2).sum())

    ours = objective(fit.weight.numpy(), fit.bias.numpy())
    theirs = objective(reference.coef_, reference.intercept_)
    assert ours == pytest.approx(theirs, abs=2e-5)
    assert fit.objective == pytest.approx(ours, abs=1e-5)
    logits = torch.from_numpy(scaled) @ fit.weight.T + fit.bias
    expected = torch.from_numpy(reference.predict_proba(scaled))
    assert (logits.softmax(1) - expected).abs().mean() < 2e-3


def test_objective_and_gradient_equal_automatic_differentiation():
    """Also in the preconditioned coordinates; float32 products agree with float64 to 1e-5."""
    features, labels = problem(300)
    features = (features - features.mean(0)) / features.std(0, correction=0)
    factor = torch.linalg.cholesky(features.double().T @ features.double() / 300 + torch.eye(20))
    at = torch.randn(21, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    weight, bias = torch.linalg.solve_triangular(factor.T, at[:-1], upper=True), 2.0 * at[-1]
    logits = features.double() @ weight + bias
    expected = torch.nn.functional.cross_entropy(logits, labels) + 0.05 * weight.square().sum()
    (gradient,) = torch.autograd.grad(expected, at)
    found, slope = _Problem(features, labels, 0.1, factor, bias_scale=2.0).evaluate(at.detach())
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(slope, gradient, rtol=1e-4, atol=1e-5)


def test_warm_and_cold_starts_reach_the_same_objective():
    features, labels = problem(400)
    features = (features - features.mean(0)) / features.std(0, correction=0)
    warm = list(fit_logistic(features, labels, [1.0, 1e-1, 1e-2, 1e-3], num_classes=4))
    for fit in warm:
        (cold,) = fit_logistic(features, labels, [fit.l2], num_classes=4)
        assert fit.objective == pytest.approx(cold.objective, abs=3e-5)
    # A weaker regulariser can only lower the minimum.
    objectives = [fit.objective for fit in warm]
    assert objectives == sorted(objectives, reverse=True)


def test_accuracy_equals_scikit_learn_at_the_chosen_strength():
    train, train_labels = problem(800, seed=1)
    test, test_labels = problem(400, seed=2)
    result = linear_probe(train, train_labels, test, test_labels, num_classes=4)
    scaler = StandardScaler().fit(train.double().numpy())
    reference = LogisticRegression(C=1 / (result.l2 * len(train)), tol=1e-8, max_iter=20_000)
    reference.fit(scaler.transform(train.double().numpy()), train_labels.numpy())
    expected = reference.score(scaler.transform(test.double().numpy()), test_labels.numpy())
    assert result.accuracy == pytest.approx(expected, abs=0.005)
    assert result.accuracy > 0.6
    predicted = result.classifier.predict(test)
    assert float((predicted == test_labels).double().mean()) == result.accuracy


def test_strength_is_chosen_on_held_out_training_images():
    train, train_labels = problem(800, seed=1)
    test, test_labels = problem(100, seed=2)
    result = linear_probe(train, train_labels, test, test_labels, num_classes=4)
    assert set(result.validation) == set(L2_VALUES)
    best = max(result.validation.values())
    assert result.l2 == max(l2 for l2, value in result.validation.items() if value == best)
    # Other test images change only the accuracy.
    other = linear_probe(train, train_labels, test.flip(0) * 5, test_labels, num_classes=4)
    assert other.l2 == result.l2
    assert other.validation == result.validation
    assert torch.equal(other.classifier.weight, result.classifier.weight)
    assert torch.equal(other.classifier.mean, result.classifier.mean)


def test_overfitting_features_get_a_stronger_regulariser():
    g = torch.Generator().manual_seed(5)
    train, labels = problem(60, signal=1.0)
    noise = torch.randn(60, 300, generator=g)
    wide = torch.cat([train, noise], dim=1)
    chosen = linear_probe(wide, labels, wide, labels, num_classes=4).l2
    assert chosen >= 1e-2


def test_scale_and_offset_of_features_are_irrelevant():
    train, train_labels = problem(400, seed=1)
    test, test_labels = problem(200, seed=2)
    scale, offset = torch.logspace(-3, 3, 20), torch.linspace(-1, 1, 20)
    plain = linear_probe(train, train_labels, test, test_labels, num_classes=4)
    moved = linear_probe(train * scale + offset, train_labels, test * scale + offset, test_labels, num_classes=4)
    assert moved.accuracy == pytest.approx(plain.accuracy, abs=0.01)


def test_a_feature_that_is_constant_in_training_is_left_out():
    train, train_labels = problem(200, seed=1)
    test, test_labels = problem(100, seed=2)
    plain = linear_probe(train, train_labels, test, test_labels, num_classes=4)
    constant = torch.cat([train, torch.full((200, 2), 7.3)], dim=1)
    wild = torch.cat([test, 1e6 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))], dim=1)
    result = linear_probe(constant, train_labels, wild, test_labels, num_classes=4)
    assert result.accuracy == plain.accuracy
    assert torch.equal(result.classifier.scale[-2:], torch.zeros(2))


def test_completely_collapsed_features_give_the_majority():
    labels = torch.tensor([0] * 30 + [1] * 60)
    result = linear_probe(torch.ones(90, 5), labels, torch.ones(30, 5), labels[15:45], num_classes=2)
    assert torch.equal(result.classifier.predict(torch.ones(4, 5)), torch.ones(4, dtype=torch.int64))


def test_a_class_without_training_images_is_never_predicted():
    train, labels = problem(300, classes=3)
    test, test_labels = problem(100, classes=3, seed=3)
    labels, test_labels = labels * 2, test_labels * 2  # classes 0, 2, 4 of 6
    test_labels[0] = 5
    result = linear_probe(train, labels, test, test_labels, num_classes=6)
    assert set(result.classifier.predict(test).tolist()) <= {0, 2, 4}
    assert 0.3 < result.accuracy < 1


def test_a_class_with_one_training_image_is_kept():
    train, labels = problem(100, classes=2)
    train[0] += 100
    labels[0] = 2
    result = linear_probe(train, labels, train, labels, num_classes=3)
    assert result.classifier.predict(train)[0] == 2


def test_separable_classes_converge_without_a_warning(caplog):
    train, labels = problem(300, signal=20.0)
    with caplog.at_level(logging.WARNING):
        result = linear_probe(train, labels, train, labels, num_classes=4)
    assert result.accuracy == 1.0
    assert not caplog.records


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_split_is_stratified_seeded_and_complete(fraction):
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 3 + [3])
    kept, held = stratified_split(labels, fraction, seed=3)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(64))
    for label, size in ((0, 40), (1, 20), (2, 3)):
        assert (labels[held] == label).sum() == max(1, np.ceil(fraction * size - 1e-9))
    assert (labels[held] == 3).sum() == 0
    again = stratified_split(labels, fraction, seed=3)
    assert torch.equal(kept, again[0])
    assert not torch.equal(held, stratified_split(labels, fraction, seed=4)[1])


def test_bad_input_is_refused():
    x, y = problem(40)
    with pytest.raises(ValueError, match="only class 2"):
        linear_probe(x, torch.full((40,), 2), x, y, num_classes=4)
    with pytest.raises(ValueError, match="no class has two images"):
        linear_probe(x[:4], y[:4], x, y, num_classes=4)
    with pytest.raises(ValueError, match="test_labels: values from 0 to 3"):
        linear_probe(x, y.clamp(max=2), x, y, num_classes=3)
    with pytest.raises(ValueError, match="train_labels: "):
        linear_probe(x, y[1:], x, y, num_classes=4)
    with pytest.raises(ValueError, match="width 19"):
        linear_probe(x, y, x[:, 1:], y, num_classes=4)
    with pytest.raises(ValueError, match="test: NaN"):
        linear_probe(x, y, x.index_fill(0, torch.tensor([3]), torch.inf), y, num_classes=4)
    with pytest.raises(ValueError, match="above 0"):
        linear_probe(x, y, x, y, num_classes=4, l2_values=[0.1, 0.0])
    with pytest.raises(ValueError, match="no strength"):
        linear_probe(x, y, x, y, num_classes=4, l2_values=[])
    with pytest.raises(ValueError, match="between 0 and 1"):
        linear_probe(x, y, x, y, num_classes=4, validation_fraction=1.0)
    with pytest.raises(ValueError, match="every class"):
        list(fit_logistic(x, y, [0.1], num_classes=5))


def test_few_images_of_many_dimensions_are_solved_in_their_span_with_the_same_result() -> None:
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(30) % 3
    train = torch.randn(30, 200, generator=generator) + 0.3 * labels[:, None]
    test, test_labels = torch.randn(50, 200, generator=generator), torch.arange(50) % 3
    found = linear_probe(train, labels, test, test_labels, num_classes=3, l2_values=[0.1])
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    model = LogisticRegression(C=1 / (0.1 * 30), tol=1e-8, max_iter=5000)
    model.fit(((train - mean) / std).numpy(), labels.numpy())
    expected = model.predict_proba(((test - mean) / std).numpy())
    assert np.abs(found.classifier.logits(test).softmax(dim=1).numpy() - expected).max() < 2e-3
    assert found.validation == {}


def test_the_logits_of_held_out_images_come_from_a_probe_that_has_not_seen_them() -> None:
    generator = torch.Generator().manual_seed(8)
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 150, generator=generator)
    found = linear_probe(noise, labels, noise, labels, num_classes=2, l2_values=[1e-5, 1e-4])
    assert found.accuracy == 1  # fitted on these
    assert len(found.held_out_labels) == 20
    assert (found.held_out_logits.argmax(dim=1) == found.held_out_labels).double().mean() < 0.9
