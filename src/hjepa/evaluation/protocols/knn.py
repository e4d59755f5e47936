"""k-nearest-neighbour classification by every representation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hjepa.evaluation.protocols.protocol import Protocol
from hjepa.evaluation.scores import by_requested, knn_scores
from hjepa.evaluation.settings import MAIN_K, check_k

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")


def run(subject: Subject) -> dict[str, Any] | str:
    """Score k-NN of all levels together and of each level, and those of the controls."""
    task = subject.task
    if isinstance(task, str):
        return task
    values, main_k = check_k(subject.k_values, len(task.train_labels))
    if subject.k_values is None and main_k < MAIN_K:
        log.warning("k-NN: k=%d, since there are only %d training images", main_k, len(task.train_labels))
    log.info("evaluation: k-NN")
    scores = knn_scores(subject.representations, task, subject.levels, values, main_k, console=subject.console)
    return by_requested(scores, subject.split)


KNN = Protocol(
    name="knn",
    label="k-NN",
    about="accuracy of a vote among the nearest training images",
    run=run,
    beside_test=True,
)
