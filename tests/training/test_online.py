"""Online evaluation: which images it uses, that each serves k-NN and health, and that it fits into its share of time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.conftest import tiny_config

from hjepa.config import Config, load_config
from hjepa.data import build_dataset
from hjepa.methods import build_method
from hjepa.metrics import accuracy, knn_predict
from hjepa.training.cost import training_cost
from hjepa.training.online import OnlineEvaluation
from hjepa.training.online_budget import FEWEST, SHARE_OF_TIME, affordable_images

# Time enough between two evaluations for all images.
ROOM = {"training.epochs": 40, "evaluation.eval_frequency": 20}
MEAN, STD = (0.5,) * 3, (0.25,) * 3


def online(config: Config) -> OnlineEvaluation:
    dataset = build_dataset(config.data, "train", seed=config.seed)
    return OnlineEvaluation(config, dataset, MEAN, STD, torch.device("cpu"))


def test_the_images_of_health_are_measured_where_there_is_time_for_them() -> None:
    assert affordable_images(load_config("quickstart", {"evaluation.eval_frequency": 2}), 18000, 3)[0] == 1000
    assert affordable_images(load_config("cifar10_cpu"), 45000, 3)[0] == 1000


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"training.epochs": 30},
        {"training.epochs": 0.5, "evaluation.eval_frequency": 10},
        {"evaluation.eval_frequency": 3, "health.images": 4000},
        {"model.predictor.depth": 1, "model.num_hierarchies": 1},
    ],
)
def test_all_evaluations_together_encode_no_more_than_their_share_of_the_work(keys: dict[str, Any]) -> None:
    config = load_config("quickstart", keys)
    images, epochs = 18000, config.training.epochs
    measured, together = affordable_images(config, images, 3)
    evaluations = math.ceil(epochs / config.evaluation.eval_frequency)
    cost = training_cost(config, 3)
    work = (measured + evaluations * together) * cost.target / (images * epochs * cost.total)
    assert work <= SHARE_OF_TIME
    assert FEWEST <= measured <= config.health.images


def test_every_image_is_classified_by_all_others() -> None:
    config = tiny_config({"data.subset": 640, "health.images": 60, "evaluation.online_images": 40, **ROOM})
    evaluation = online(config)
    rows = torch.cat([evaluation.measured, evaluation.further])
    encoder = build_method(config, 3).encoder
    assert len(set(rows.tolist())) == evaluation(encoder).values["knn_queries"] == 100
    assert len(evaluation.measured) == 60
    # The features of the images themselves, one k-NN per image.
    dataset = evaluation.dataset
    assert dataset.labels is not None
    features, read = evaluation.pooled(encoder, rows)
    labels = dataset.labels[read]
    predicted = []
    for row in range(len(read)):
        rest = torch.arange(len(read)) != row
        predicted.append(knn_predict(features[rest], labels[rest], features[row : row + 1], k=20)[20])
    assert evaluation(encoder).values["knn"] == pytest.approx(accuracy(torch.cat(predicted), labels))


def test_validation_images_come_first() -> None:
    evaluation = online(tiny_config({"data.subset": 640, "health.images": 60, **ROOM}))
    withheld = evaluation.dataset.division.withheld
    assert withheld is not None
    assert withheld[evaluation.measured].all()


def test_without_labels_nothing_is_encoded_for_knn() -> None:
    config = tiny_config()
    dataset = build_dataset(config.data, "train", seed=0)
    dataset.labels = None
    evaluation = OnlineEvaluation(config, dataset, MEAN, STD, torch.device("cpu"))
    assert not len(evaluation.further)
    assert "knn" not in evaluation(build_method(config, 3).encoder).values
