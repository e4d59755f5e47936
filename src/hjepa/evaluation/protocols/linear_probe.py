"""The linear probe of every representation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from hjepa.evaluation.protocols.probe_details import blocks, details
from hjepa.evaluation.protocols.protocol import Protocol
from hjepa.evaluation.scores import by_requested, probe_scores

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")


def run(subject: Subject) -> dict[str, Any] | str:
    """Fit and score the linear probe of all levels together and of each level, and those of the controls."""
    task = subject.task
    if isinstance(task, str):
        return task
    if int(torch.bincount(task.train_labels).max()) < 2:
        return "no class with two training images"  # none can be held out to choose l2
    log.info("evaluation: linear probe")
    scores = probe_scores(subject.representations, task, subject.levels, console=subject.console, fitted=subject.probes)
    return by_requested(
        {split: found | details(subject, task, split) for split, found in scores.items()}, subject.split
    )


LINEAR_PROBE = Protocol(
    name="linear_probe",
    label="linear probe",
    about="accuracy of a linear classifier on frozen features",
    run=run,
    blocks=blocks,
    beside_test=True,
)
