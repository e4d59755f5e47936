"""Which classes are confused, and precision, recall and F1 of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Number of images by true class (rows) and predicted class (columns), int64 [C, C].

    Args:
        labels: [N] int64, 0 to C - 1.
        predicted: [N] int64, 0 to C - 1.
        num_classes: C.

    Raises:
        ValueError: different numbers of labels and predictions, or a class out of range.
    """
    labels, predicted = labels.cpu(), predicted.cpu()
    if labels.shape != predicted.shape:
        raise ValueError(f"{list(labels.shape)} labels for {list(predicted.shape)} predictions")
    for name, values in (("labels", labels), ("predicted", predicted)):
        if len(values) and not (int(values.min()) >= 0 and int(values.max()) < num_classes):
            raise ValueError(f"{name}: the classes are 0 to {num_classes - 1}")
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, 0 to 1 each.

    Attributes:
        precision: share of correct images among those predicted as this class; 0 if there are none.
        recall: share of this class's images that are predicted as it; 0 if there are none.
        f1: harmonic mean of both.
        support: number of images of this class.
    """

    precision: float
    recall: float
    f1: float
    support: int


def class_scores(matrix: Tensor) -> list[ClassScores]:
    """Scores of every class from a confusion matrix [C, C] of `confusion_matrix`."""
    right = matrix.diagonal().double()
    predicted, support = matrix.sum(dim=0).double(), matrix.sum(dim=1).double()
    precision = torch.where(predicted > 0, right / predicted.clamp_min(1), 0.0)
    recall = torch.where(support > 0, right / support.clamp_min(1), 0.0)
    both = predicted + support
    f1 = torch.where(both > 0, 2 * right / both.clamp_min(1), 0.0)
    return [
        ClassScores(p, r, f, int(count))
        for p, r, f, count in zip(precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    ]


def frequent_confusions(matrix: Tensor, count: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes, as (true class, predicted class, images), most frequent first, without zeros."""
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    order = torch.sort(wrong.flatten(), descending=True, stable=True).indices[:count].tolist()
    classes = len(matrix)
    return [(i // classes, i % classes, int(wrong.flatten()[i])) for i in order if int(wrong.flatten()[i]) > 0]
