"""COCO's figures of hand-made detections, against values that follow from their definition."""

import pytest
import torch

from hjepa.data import Boxes
from hjepa.evaluation.dense.average_precision import Detections, average_precision

pytest.importorskip("pycocotools")

# Boxes are top, left, height, width.
TRUTH = [
    Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 5.0, 8.0, 16.0]]), torch.tensor([0, 1])),
    Boxes(torch.tensor([[4.0, 6.0, 12.0, 10.0]]), torch.tensor([0])),
]


def found(boxes, labels, scores) -> Detections:
    return Detections(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels), torch.tensor(scores))


def perfect() -> list[Detections]:
    return [Detections(objects.boxes, objects.labels, torch.full((len(objects.labels),), 0.9)) for objects in TRUTH]


def test_the_truth_itself_scores_one():
    scores = average_precision(TRUTH, perfect(), 3)
    assert (scores.ap, scores.ap50, scores.ap75, scores.recall) == pytest.approx((1, 1, 1, 1))
    # No object of class 2 exists, so it has no precision and is not part of the mean.
    assert scores.by_class == [pytest.approx(1), pytest.approx(1), None]


def test_rows_and_columns_are_not_confused():
    swapped = [Detections(p.boxes[:, [1, 0, 3, 2]], p.labels, p.scores) for p in perfect()]
    assert average_precision(TRUTH, swapped, 2).ap < 0.5


def test_a_wrong_box_of_higher_score_halves_the_precision():
    truth = [Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0]))]
    boxes = [[50.0, 50.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]]
    assert average_precision(truth, [found(boxes, [0, 0], [0.9, 0.5])], 1).ap == pytest.approx(0.5)
    assert average_precision(truth, [found(boxes, [0, 0], [0.5, 0.9])], 1).ap == pytest.approx(1)


def test_an_overlap_of_two_thirds_counts_below_that_threshold_only():
    truth = [Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0]))]
    # Intersection 10 x 8, union 10 x 12.
    scores = average_precision(truth, [found([[0.0, 2.0, 10.0, 10.0]], [0], [0.8])], 1)
    assert scores.ap50 == pytest.approx(1)
    assert scores.ap75 == pytest.approx(0)
    # Thresholds 0.5, 0.55, 0.6 and 0.65 of ten.
    assert scores.ap == pytest.approx(0.4)


def test_a_class_that_is_never_found_pulls_the_mean_down():
    predicted = [
        Detections(p.boxes[p.labels == 0], p.labels[p.labels == 0], p.scores[p.labels == 0]) for p in perfect()
    ]
    scores = average_precision(TRUTH, predicted, 2)
    assert scores.by_class == [pytest.approx(1), pytest.approx(0)]
    assert scores.ap == pytest.approx(0.5)


def test_no_detection_at_all_scores_zero_and_no_object_nothing():
    none = [found([], [], [])] * 2
    assert average_precision(TRUTH, none, 2).ap == 0
    empty = [Boxes(torch.zeros(0, 4), torch.zeros(0).long())] * 2
    assert average_precision(empty, none, 2).ap is None
