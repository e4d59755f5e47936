"""Calibration of a classifier: how far its confidence is from its accuracy, and temperature scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy of a classifier.

    Attributes:
        ece: expected calibration error, 0 to 1.
        nll: mean negative log-likelihood of the labels, in nats; infinity if a label had no probability.
        confidence: mean probability of the predicted class, 0 to 1; above `accuracy` the classifier is overconfident.
        accuracy: 0 to 1.
    """

    ece: float
    nll: float
    confidence: float
    accuracy: float


def calibration(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Calibration:
    """Expected calibration error (arXiv:1706.04599, with 15 bins as there) and what it is made of.

    Images are divided into bins of equal width by the probability of the predicted class, each open on the left. The
    error is the mean over images of the distance between confidence and accuracy of their bin.

    Args:
        logits: [N, C]; minus infinity for classes that are never predicted.
        labels: [N] int64.
        bins: number of bins between 0 and 1.

    Raises:
        ValueError: no images, or shapes that do not match.
    """
    _check(logits, labels)
    log_share = F.log_softmax(logits.double(), dim=1)
    confidence, predicted = log_share.exp().max(dim=1)
    correct = (predicted == labels.to(predicted.device)).double()
    places = (torch.ceil(confidence * bins).long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=logits.device).index_add_(0, places, confidence - correct)
    return Calibration(
        ece=float(gaps.abs().sum()) / len(labels),
        nll=float(-log_share.gather(1, labels.to(log_share.device)[:, None]).mean()),
        confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature by which logits are divided so that the labels are most likely (arXiv:1706.04599).

    The negative log-likelihood is convex in the inverse temperature, so bisecting its slope finds the minimum. Fit on
    images that the classifier was not fitted on.

    Args:
        logits: [N, C].
        labels: [N] int64; rows whose label has a logit of minus infinity are left out.

    Returns:
        between 0.01 and 100; 1 if no row is left.

    Raises:
        ValueError: no images, or shapes that do not match.
    """
    _check(logits, labels)
    values = logits.double().cpu()
    own = values.gather(1, labels.cpu()[:, None])[:, 0]
    possible = torch.isfinite(own)
    if not possible.any():
        return 1.0
    values, own = values[possible], own[possible]
    finite = torch.where(torch.isfinite(values), values, 0.0)

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood: expected logit minus the label's."""
        expected = (F.softmax(values * inverse, dim=1) * finite).sum(dim=1)
        return float((expected - own).mean())

    low, high = math.log(0.01), math.log(100.0)
    if slope(math.exp(high)) <= 0:
        return math.exp(-high)
    if slope(math.exp(low)) >= 0:
        return math.exp(-low)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits {list(logits.shape)} and labels {list(labels.shape)}: expected [N, C] and [N], N > 0")
