"""Linear probes on corrupted images."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from hjepa.evaluation.controls import pixels
from hjepa.evaluation.features import Reader
from hjepa.evaluation.protocols.protocol import Block, Protocol, percent
from hjepa.evaluation.robustness import concatenated, robustness
from hjepa.evaluation.sample import draw_read

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

_LABELS = {"trained": "trained", "untrained": "untrained", "pixels": "raw pixels"}


def run(subject: Subject) -> dict[str, Any] | str:
    """Score the linear probe of every representation on corrupted images of the requested split."""
    task = subject.task
    if isinstance(task, str):
        return task
    if int(torch.bincount(task.train_labels).max()) < 2:
        return "no class with two training images"  # none can be held out to choose l2
    readers: dict[str, Reader] = {name: concatenated(encoder, name) for name, encoder in subject.encoders().items()}
    if subject.representation("pixels") is not None:
        readers["pixels"] = lambda images: {"pixels": pixels(images)}
    read, most = subject.read[subject.split], subject.config.evaluation.robustness.images
    available = len(subject.rows[subject.split])
    rows = draw_read(read.labels, len(read), available if most is None else min(most, available), subject.seed)
    log.info("evaluation: corrupting %d images", len(rows))
    return robustness(
        readers,
        {name: subject.probe(name).classifier for name in readers},
        read,
        rows,
        view=subject.view,
        seed=subject.seed,
        console=subject.console,
    )


def blocks(part: dict[str, Any], _results: dict[str, Any]) -> list[Block]:
    """Accuracy on clean images, the mean over all corruptions, and each kind."""
    names = [name for name in _LABELS if name in part["clean"]]
    rows = [["clean", *(percent(part["clean"][name]) for name in names)]]
    rows.append(["mean of all corruptions", *(percent(part["mean"][name]) for name in names)])
    rows.append(["lost, relative to clean", *(percent(part["drop"][name]) for name in names)])
    rows += [[entry["kind"].replace("_", " "), *(percent(entry[name]) for name in names)] for entry in part["kinds"]]
    title = f"robustness: accuracy in per cent of the linear probe on {part['images']} corrupted images, all severities"
    return [Block(title, ["corruption", *(_LABELS[name] for name in names)], rows)]


ROBUSTNESS = Protocol(
    name="robustness",
    label="robustness",
    about="accuracy of the linear probe on images with common corruptions",
    run=run,
    blocks=blocks,
)
