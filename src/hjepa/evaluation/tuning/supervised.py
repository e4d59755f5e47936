"""The supervised control: the run's architecture trained from scratch with labels, at the run's budget of images."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluation.features import View
from hjepa.evaluation.tuning.classifier import Classifier
from hjepa.evaluation.tuning.training import Recipe, train_classifier
from hjepa.runs.load import untrained_encoder
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config import Config, DataConfig
    from hjepa.config.protocols import SupervisedConfig
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder
    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")


def supervised_encoder(
    run: TrainedRun, config: Config, train: ImageDataset, rows: Tensor, device: torch.device
) -> tuple[Encoder, dict[str, Any]]:
    """The supervised control of a run.

    It sees as many images as the run saw (steps times the images of a step of one process), times
    ``evaluation.supervised.share``, in batches of the same size.

    Args:
        run: gives architecture, initial weights and budget.
        config: of the evaluation.
        train: the training split.
        rows: int64, labelled images to fit on.
        device: of the encoder.

    Returns:
        The encoder, and what the results say of it.

    Raises:
        UserError: the images have no labels, or the run has seen none.
    """
    if train.labels is None:
        raise UserError("control supervised: the training images have no labels; leave the control out")
    keys, settings = run.config, config.evaluation.supervised
    batch = keys.data.batch_size * keys.training.accumulation_steps
    if run.step == 0:
        raise UserError(f"control supervised: {run.checkpoint} is at step 0, so its budget is no image; train it first")
    view = View(run.encoder.geometry.height_width, run.mean, run.std, device, num_workers=config.data.num_workers)
    named = 0 if train.class_names is None else len(train.class_names)
    encoder = train_supervised(
        untrained_encoder(run),
        train,
        rows,
        images_seen=run.step * batch,
        num_classes=max(named, int(train.labels[rows].max()) + 1),
        settings=settings,
        batch_size=batch,
        data=config.data,
        view=view,
        seed=config.seed,
        bf16=keys.training.use_amp is True and device.type != "mps",
    )
    about = {
        "weights": "trained from scratch with labels by this evaluation",
        "licence": None,
        "source": None,
        "labelled_images": len(rows),
        "images_seen": round(run.step * batch * settings.share),
        "lr": settings.lr,
    }
    return encoder, about


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
