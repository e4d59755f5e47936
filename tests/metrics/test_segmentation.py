"""Mean IoU and pixel accuracy against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from hjepa.metrics import pixel_confusion, segmentation_scores


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 6, (4, 9, 11), generator=generator)
    predicted = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, 5 - truth)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = 255
    scores = segmentation_scores(pixel_confusion(predicted, truth, 8))
    counted = truth != 255
    t, p = truth[counted].numpy(), predicted[counted].numpy()
    present = np.union1d(t, p)
    assert scores.mean_iou == pytest.approx(jaccard_score(t, p, labels=present, average="macro"))
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(t, p))
    # Classes 6 and 7 occur nowhere and are not part of the mean.
    assert scores.iou[6:] == [None, None]
    assert [v for v in scores.iou if v is not None] == pytest.approx(jaccard_score(t, p, labels=present, average=None))


def test_batches_add_up():
    truth, predicted = torch.randint(0, 3, (2, 6, 5)), torch.randint(0, 3, (2, 6, 5))
    parts = sum(pixel_confusion(p, t, 3) for p, t in zip(predicted, truth, strict=True))
    assert torch.equal(parts, pixel_confusion(predicted, truth, 3))


def test_nothing_to_score_is_none():
    scores = segmentation_scores(pixel_confusion(torch.zeros(3, 3).long(), torch.full((3, 3), 255), 2))
    assert scores.mean_iou is None
    assert scores.pixel_accuracy is None


def test_shapes_and_classes_are_checked():
    with pytest.raises(ValueError, match="truth: values from 0 to 4, but the classes are 0 to 2"):
        pixel_confusion(torch.zeros(2).long(), torch.tensor([0, 4]), 3)
    with pytest.raises(ValueError, match="shape"):
        pixel_confusion(torch.zeros(2).long(), torch.zeros(3).long(), 3)
