"""Fine-tuning with labels: the whole encoder, and its last blocks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hjepa.evaluation.protocols.protocol import Block, Protocol
from hjepa.evaluation.sample import draw_read, draw_train
from hjepa.evaluation.tuning.fine_tune import Labelled, fine_tune

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

VARIANTS = ("full", "last_blocks")


def run(subject: Subject) -> dict[str, Any] | str:
    """Fine-tune copies of the trained and the untrained encoder, and score them on the requested split."""
    task = subject.task
    if isinstance(task, str):
        return task
    settings, split = subject.config.evaluation.fine_tune, subject.split
    most = len(subject.train_rows) if settings.images is None else min(settings.images, len(subject.train_rows))
    train, read = subject.train, subject.read[split]
    limit = subject.config.evaluation.test_images if settings.test_images is None else settings.test_images
    scored = draw_read(read.labels, len(read), min(limit or len(read), len(subject.rows[split])), subject.seed)
    log.info("evaluation: fine-tuning on %d images", most)
    found = fine_tune(
        subject.encoders(),
        Labelled(train, draw_train(train.labels, len(train), most, subject.seed, train.division.withheld)),
        {split: Labelled(read, scored)},
        num_classes=task.num_classes,
        settings=settings,
        data=subject.config.data,
        view=subject.view,
        seed=subject.seed,
        bf16=subject.run.config.training.use_amp is True and subject.device.type != "mps",
        console=subject.console,
    )
    for variant in VARIANTS:
        if variant in found:
            found[variant] |= found[variant].pop(split)
    return found | {"test_images": len(scored)}


def blocks(part: dict[str, Any], _results: dict[str, Any]) -> list[Block]:
    """One row per encoder, one column per variant."""
    labels = {"full": "whole encoder", "last_blocks": f"last {part['blocks']} blocks"}
    shown = [variant for variant in VARIANTS if variant in part]
    names = [name for name in ("trained", "untrained") if name in part["full"]]
    return [
        Block(
            f"fine-tuning: accuracy in per cent after {part['steps']} steps on {part['images']} labelled images",
            ["encoder", *(labels[variant] for variant in shown)],
            [[name, *(f"{100 * part[variant][name]:.1f}" for variant in shown)] for name in names],
        )
    ]


FINE_TUNE = Protocol(
    name="fine_tune",
    label="fine-tuning",
    about="accuracy after training the encoder with labels, from its trained and its initial weights",
    run=run,
    blocks=blocks,
)
