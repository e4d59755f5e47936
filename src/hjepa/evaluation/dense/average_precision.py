"""COCO's average precision of predicted boxes, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from hjepa.data import Boxes
from hjepa.errors import UserError


class Detections(NamedTuple):
    """Predicted objects in one image."""

    boxes: Tensor
    """float32 [M, 4]: top, left, height, width in pixels."""
    labels: Tensor
    """int64 [M], from 0."""
    scores: Tensor
    """float32 [M], confidence."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures; None where nothing could be measured."""

    ap: float | None
    """Mean over classes and over thresholds of overlap from 0.5 to 0.95."""
    ap50: float | None
    """At an overlap of 0.5."""
    ap75: float | None
    """At an overlap of 0.75."""
    recall: float | None
    """Average recall with up to 100 boxes per image."""
    by_class: list[float | None]
    """`ap` of each class; None for a class without objects."""


def check_pycocotools() -> None:
    """Raise `UserError` unless pycocotools is installed."""
    try:
        import pycocotools  # noqa: F401
    except ImportError:
        raise UserError(
            "eval_type: detection needs pycocotools, which is not installed; run pip install 'hjepa[detection]'"
        ) from None


def average_precision(truth: Sequence[Boxes], predicted: Sequence[Detections], num_classes: int) -> AveragePrecision:
    """COCO's figures for the predicted boxes of some images.

    Args:
        truth: objects by image.
        predicted: predictions by image, in the same order.
        num_classes: number of classes.

    Raises:
        UserError: pycocotools is not installed.
    """
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = _tree(truth, num_classes)
        known.createIndex()
        entries = _entries(predicted)
        if not entries:
            return _nothing(truth, num_classes)
        scorer = COCOeval(known, known.loadRes(entries), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    # Axes: threshold, recall, class, area (0: all), number of boxes (2: 100); -1 where a class has no object.
    precision = scorer.eval["precision"][:, :, :, 0, 2]
    by_class = [_mean(precision[:, :, place]) for place in range(num_classes)]
    figures = [_known(float(value)) for value in scorer.stats]
    return AveragePrecision(figures[0], figures[1], figures[2], figures[8], by_class)


def _tree(truth: Sequence[Boxes], num_classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(truth, start=1):
        for (top, left, height, width), label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes 0 for "no match"
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    return {
        "info": {},
        "images": [{"id": image} for image in range(1, len(truth) + 1)],
        "categories": [{"id": label} for label in range(1, num_classes + 1)],
        "annotations": annotations,
    }


def _entries(predicted: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": label + 1, "bbox": [left, top, width, height], "score": score}
        for image, found in enumerate(predicted, start=1)
        for (top, left, height, width), label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        )
    ]


def _nothing(truth: Sequence[Boxes], num_classes: int) -> AveragePrecision:
    """Nothing was predicted: 0 wherever there are objects to find."""
    present = {label for objects in truth for label in objects.labels.tolist()}
    total = 0.0 if present else None
    return AveragePrecision(
        total, total, total, total, [0.0 if label in present else None for label in range(num_classes)]
    )


def _mean(values: np.ndarray) -> float | None:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else None


def _known(value: float) -> float | None:
    return None if value < 0 else value
