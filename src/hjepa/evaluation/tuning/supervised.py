"""The supervised control: the run's architecture trained from scratch with labels, at the run's budget of images."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from hjepa.evaluation.features import View
from hjepa.evaluation.tuning.classifier import Classifier
from hjepa.evaluation.tuning.training import Recipe, train_classifier
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config import DataConfig
    from hjepa.config.protocols import SupervisedConfig
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder

log = logging.getLogger("hjepa")


def train_supervised(
    untrained: Encoder,
    train: ImageDataset,
    rows: Tensor,
    *,
    images_seen: int,
    num_classes: int,
    settings: SupervisedConfig,
    batch_size: int,
    data: DataConfig,
    view: View,
    seed: int,
    bf16: bool = False,
    console: bool = False,
) -> Encoder:
    """An encoder trained from scratch with labels, in evaluation mode and without its head.

    Args:
        untrained: initial weights; not changed.
        train: the training split.
        rows: int64, labelled images to fit on; never validation images.
        images_seen: images that the run saw in training, repetitions counted.
        num_classes: C.
        settings: ``evaluation.supervised``.
        batch_size: images per update, those of the run.
        data: augmentation and loading.
        view: size, normalisation and device of the images.
        seed: head, order and crops.
        bf16: train in bfloat16.
        console: show progress.
    """
    size = min(batch_size, len(rows))
    steps = max(1, round(images_seen * settings.share / size))
    log.info("evaluation: training the supervised control on %d images (%d steps of %d)", steps * size, steps, size)
    model = Classifier(untrained, num_classes, seed)
    with WorkProgress("supervised control", steps, "steps", console=console) as progress:
        train_classifier(
            model,
            train.select(rows),
            data,
            replace(view, batch_size=size),
            Recipe(steps, size, settings.lr, bf16=bf16),
            seed=seed,
            progress=progress,
        )
    return model.encoder.requires_grad_(False).eval()
