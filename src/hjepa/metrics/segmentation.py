"""Scores of a class per pixel: mean intersection over union, and pixel accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of predicted maps, from the confusion matrix of all their pixels together."""

    mean_iou: float | None
    """Mean over the classes that occur in truth or prediction; None if no pixel counts."""
    pixel_accuracy: float | None
    """Share of pixels of the right class; None if no pixel counts."""
    iou: list[float | None]
    """Per class; None for a class that occurs in neither."""


def pixel_confusion(predicted: Tensor, truth: Tensor, num_classes: int, ignored: int = 255) -> Tensor:
    """Number of pixels by true class (row) and predicted class (column).

    Args:
        predicted: classes, of any shape.
        truth: classes of the same shape, or ``ignored``.
        num_classes: C.
        ignored: value of pixels that do not count.

    Returns:
        int64 [C, C]; matrices of several batches may be added.

    Raises:
        ValueError: shapes that differ, or a class out of range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted has shape {list(predicted.shape)}, but truth {list(truth.shape)}")
    counted = truth != ignored
    rows, columns = truth[counted].to(torch.int64), predicted[counted].to(torch.int64)
    for name, values in (("truth", rows), ("predicted", columns)):
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"{name}: values from {int(values.min())} to {int(values.max())}, but the classes are 0 to {num_classes - 1}"
            )
    return torch.bincount(rows * num_classes + columns, minlength=num_classes**2).view(num_classes, num_classes)


def segmentation_scores(confusion: Tensor) -> SegmentationScores:
    """Scores from a confusion matrix int64 [C, C] of `pixel_confusion`."""
    right = confusion.diag().double()
    union = (confusion.sum(dim=0) + confusion.sum(dim=1)).double() - right
    total = float(confusion.sum())
    iou = [float(r / u) if u > 0 else None for r, u in zip(right, union, strict=True)]
    known = [value for value in iou if value is not None]
    return SegmentationScores(
        sum(known) / len(known) if known else None, float(right.sum()) / total if total else None, iou
    )
