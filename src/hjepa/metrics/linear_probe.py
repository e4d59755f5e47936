"""The linear probe: accuracy of a linear classifier on frozen features.

Features are standardised, multinomial logistic regression is solved to convergence, the L2 strength is chosen on a
split of the *training* images, and the test images are used once. Nothing is tuned by hand, so sets of features are
compared under equal conditions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hjepa.metrics.knn import accuracy
from hjepa.metrics.logistic import LogisticFit, fit_logistic
from hjepa.metrics.moments import check_features, mean_and_std
from hjepa.runtime.random import Purpose, stream

L2_VALUES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2 strengths to try: decades around those that suit 10 to 10^6 images."""


@dataclass(frozen=True)
class LinearClassifier:
    """Standardisation and a linear map, both fitted on training features."""

    mean: Tensor
    """[D] float32."""
    scale: Tensor
    """[D] float32: 1 / standard deviation, 0 for a constant feature."""
    weight: Tensor
    """[C, D] float32."""
    bias: Tensor
    """[C] float32; minus infinity for a class that had no training image."""

    def logits(self, features: Tensor) -> Tensor:
        """Logits [M, C] of features [M, D]."""
        return ((features.float() - self.mean) * self.scale) @ self.weight.T + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """Classes [M] int64 of features [M, D]."""
        return torch.cat([self.logits(block).argmax(dim=1) for block in torch.split(features, 8192)])


@dataclass(frozen=True)
class ProbeResult:
    """A fitted linear probe, its accuracy, and how its L2 strength was chosen."""

    accuracy: float
    """Accuracy on the test images, 0 to 1."""
    l2: float
    """The chosen L2 strength."""
    validation: dict[float, float]
    """Accuracy on the held-out training images for every strength tried."""
    classifier: LinearClassifier
    """The probe, fitted on all training images."""
    held_out_logits: Tensor
    """Logits [H, C] of the held-out training images, by the probe of the chosen strength fitted on the others."""
    held_out_labels: Tensor
    """Their labels, [H] int64."""


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    num_classes: int,
    l2_values: Sequence[float] = L2_VALUES,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> ProbeResult:
    """Fit a linear probe on training features and score it once on the test features.

    The objective is ``mean cross-entropy + l2 / 2 * |weight|^2`` on features standardised with the statistics of
    the images they are fitted on; scikit-learn's ``C`` is ``1 / (l2 * N)``. Features that are constant in training are
    ignored. Among equally accurate strengths the strongest is chosen.

    Args:
        train: [N, D].
        train_labels: [N] int64, 0 to ``num_classes - 1``. Classes without a training image are never predicted.
        test: [M, D], on the same device.
        test_labels: [M] int64.
        num_classes: C.
        l2_values: strengths to choose from; with a single one nothing is held out.
        validation_fraction: share of each class held out for the choice; see `stratified_split`.
        seed: seed of that split.

    Raises:
        ValueError: shapes or labels that do not match, fewer than two classes in training, or no class with two
            training images, so that nothing can be held out.
    """
    check_features(train, "train")
    check_features(test, "test")
    _check_labels(train_labels, len(train), num_classes, "train_labels")
    _check_labels(test_labels, len(test), num_classes, "test_labels")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"test: width {test.shape[1]}, but the training features have width {train.shape[1]}")
    if not l2_values:
        raise ValueError("l2_values: no strengths given")
    if len(torch.unique(train_labels)) < 2:
        raise ValueError(f"train_labels: only class {int(train_labels[0])}; a probe needs at least two classes")
    strengths = sorted(set(l2_values), reverse=True)
    if len(strengths) == 1:
        return _fixed(train, train_labels, test, test_labels, num_classes, strengths[0])
    kept, held_out = stratified_split(train_labels, validation_fraction, seed)
    if len(held_out) == 0:
        raise ValueError("train_labels: no class has two images, so none can be held out to choose l2")
    rows = kept.to(train.device)
    held_features, held_labels = train[held_out.to(train.device)], train_labels[held_out]
    validation: dict[float, float] = {}
    best: tuple[float, LogisticFit, LinearClassifier] | None = None
    path = _Path(train[rows], train_labels[kept], num_classes)
    for fit, classifier in path.solutions(strengths):
        validation[fit.l2] = accuracy(classifier.predict(held_features), held_labels)
        if best is None or validation[fit.l2] > best[0]:
            best = validation[fit.l2], fit, classifier
    assert best is not None
    final = _Path(train, train_labels, num_classes)
    # The starting point is of use only in the same coordinates.
    start = best[1] if path.basis is None and final.basis is None else None
    ((fit, classifier),) = final.solutions([best[1].l2], start=start)
    return ProbeResult(
        accuracy(classifier.predict(test), test_labels),
        fit.l2,
        validation,
        classifier,
        held_out_logits=best[2].logits(held_features),
        held_out_labels=held_labels,
    )


def _fixed(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, num_classes: int, l2: float
) -> ProbeResult:
    """A probe whose strength is given."""
    ((fit, classifier),) = _Path(train, train_labels, num_classes).solutions([l2])
    found = accuracy(classifier.predict(test), test_labels)
    none = train_labels[:0]
    return ProbeResult(found, fit.l2, {}, classifier, classifier.logits(train[: len(none)]), none)


class _Path:
    """Standardised features and dense labels, to be solved for several strengths.

    With fewer images than half the dimensions, the problem is solved in the span of the images. This is exact, since
    the regularisation leaves no weight outside it, and its cost grows with the images instead of the dimensions.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        mean, std = mean_and_std(features)
        # Below this a column is constant up to float32 rounding, which dividing would amplify.
        varies = std > 1e-6 * mean.abs()
        scale = torch.where(varies, 1 / std, 0.0)
        device = features.device
        self.mean, self.scale = mean.float().to(device), scale.float().to(device)
        standardised = (features.float() - self.mean) * self.scale
        count, width = standardised.shape
        self.basis = torch.linalg.qr(standardised.T).Q if 2 * count <= width else None
        self.standardised = standardised if self.basis is None else standardised @ self.basis
        self.present, self.labels = torch.unique(labels, return_inverse=True)
        self.num_classes = num_classes

    def solutions(
        self, strengths: Sequence[float], start: LogisticFit | None = None
    ) -> list[tuple[LogisticFit, LinearClassifier]]:
        fits = fit_logistic(self.standardised, self.labels, strengths, num_classes=len(self.present), start=start)
        return [(fit, self._classifier(fit)) for fit in fits]

    def _classifier(self, fit: LogisticFit) -> LinearClassifier:
        device = self.standardised.device
        present = self.present.to(device)
        solved = fit.weight.float().to(device)
        if self.basis is not None:
            solved = solved @ self.basis.T
        weight = torch.zeros(self.num_classes, solved.shape[1], device=device)
        bias = torch.full((self.num_classes,), -torch.inf, device=device)
        weight[present] = solved
        bias[present] = fit.bias.float().to(device)
        return LinearClassifier(self.mean, self.scale, weight, bias)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers to keep and to hold out, both ascending int64.

    Of every class ``fraction`` is held out, rounded up, so at least one image. At least one image is kept, so a class
    with a single image is not held out.

    Raises:
        ValueError: ``fraction`` outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: {fraction:g} must be between 0 and 1")
    values = labels.cpu().numpy()
    generator = stream(Purpose.PROBE_SPLIT, seed)
    held: list[np.ndarray] = []
    for label in np.unique(values):
        members = generator.permutation(np.flatnonzero(values == label))
        # 0.1 * 30 is 3.0000000000000004 in binary, but three are meant.
        number = min(math.ceil(fraction * len(members) - 1e-9), len(members) - 1)
        held.append(members[:number])
    out = np.zeros(len(values), dtype=bool)
    out[np.concatenate(held)] = True
    return torch.from_numpy(np.flatnonzero(~out)), torch.from_numpy(np.flatnonzero(out))


def _check_labels(labels: Tensor, count: int, num_classes: int, name: str) -> None:
    if labels.shape != (count,):
        raise ValueError(f"{name}: {list(labels.shape)} labels for {count} images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name}: values from {low} to {high}, but the classes are 0 to {num_classes - 1}")
