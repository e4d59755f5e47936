"""Calibration, confusion and scores per class against scikit-learn and NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk
from torch import Tensor

from hjepa.metrics import calibration, class_scores, confusion_matrix, fit_temperature, frequent_confusions


def problem(seed: int = 0, images: int = 700, classes: int = 6, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1
    return scale * logits, labels


def reference_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    share = torch.softmax(logits.double(), dim=1).numpy()
    confidence, right = share.max(axis=1), share.argmax(axis=1) == labels.numpy()
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_the_calibration_error_equals_its_definition(bins: int, scale: float) -> None:
    logits, labels = problem(scale=scale)
    found = calibration(logits, labels, bins=bins)
    assert found.ece == pytest.approx(reference_error(logits, labels, bins), abs=1e-9)
    share = torch.softmax(logits.double(), dim=1).numpy()
    if scale < 10:  # scikit-learn clips probabilities
        assert found.nll == pytest.approx(sk.log_loss(labels.numpy(), share, labels=range(6)), rel=1e-6)
    assert found.accuracy == pytest.approx(sk.accuracy_score(labels.numpy(), share.argmax(axis=1)))


def test_a_classifier_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    # Four images at a confidence of 0.75, three of them right; and one that is certain and right.
    logits = torch.log(torch.tensor([[0.75, 0.25]] * 4 + [[1.0, 0.0]]))
    assert calibration(logits, torch.tensor([0, 0, 0, 1, 0])).ece == pytest.approx(0, abs=1e-6)
    assert calibration(logits, torch.tensor([1, 1, 1, 1, 1])).ece == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_temperature_minimises_the_likelihood_that_scipy_minimises(scale: float) -> None:
    logits, labels = problem(1, scale=scale)

    def nll(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / np.exp(log_temperature), labels))

    best = minimize_scalar(nll, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(best.x), rel=1e-3)


def test_scaling_an_overconfident_classifier_lowers_its_error() -> None:
    logits, labels = problem(2, images=4000, scale=10)
    fit, read = slice(0, 2000), slice(2000, 4000)
    temperature = fit_temperature(logits[fit], labels[fit])
    assert temperature > 2
    assert calibration(logits[read] / temperature, labels[read]).ece < 0.3 * calibration(logits[read], labels[read]).ece


def test_classes_that_are_never_predicted_leave_the_temperature_finite() -> None:
    logits, labels = problem(3)
    logits[:, 0] = -torch.inf
    others = labels > 0
    assert fit_temperature(logits, labels) == pytest.approx(fit_temperature(logits[others][:, 1:], labels[others] - 1))
    assert fit_temperature(logits[~others], labels[~others]) == 1
    assert calibration(logits, labels).nll == np.inf


def test_confusion_and_scores_per_class_equal_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 5, (300,), generator=generator)
    predicted = torch.where(torch.rand(300, generator=generator) < 0.6, labels, (labels * 2 + 1) % 5)
    predicted[predicted == 3] = 4  # class 3 is never predicted; class 5 and 6 have no image
    matrix = confusion_matrix(labels, predicted, 7)
    assert np.array_equal(matrix.numpy(), sk.confusion_matrix(labels, predicted, labels=range(7)))
    expected = sk.precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=0)
    found = class_scores(matrix)
    for values, name in zip(expected, ("precision", "recall", "f1", "support"), strict=True):
        assert [getattr(scores, name) for scores in found] == pytest.approx(list(values))


def test_frequent_confusions_are_off_the_diagonal_and_sorted() -> None:
    matrix = torch.tensor([[90, 2, 0], [7, 1, 3], [0, 0, 5]])
    assert frequent_confusions(matrix, 3) == [(1, 0, 7), (1, 2, 3), (0, 1, 2)]
    assert frequent_confusions(matrix, 99) == [(1, 0, 7), (1, 2, 3), (0, 1, 2)]


def test_labels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="the classes are 0 to 1"):
        confusion_matrix(torch.tensor([0, 2]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="expected"):
        calibration(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
