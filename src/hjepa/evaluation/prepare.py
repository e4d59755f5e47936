"""Encode the images of an evaluation once, for all protocols."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.errors import DivergenceError
from hjepa.evaluation.controls import pixel_components, pixels
from hjepa.evaluation.features import Reader, View, encode, encoder_reader
from hjepa.evaluation.on_request import NamedEncoder, Request, build, parts_of
from hjepa.evaluation.sample import draw_read, draw_train
from hjepa.evaluation.scores import Representation, Task
from hjepa.evaluation.settings import Readings, check_k
from hjepa.evaluation.subject import Subject
from hjepa.models import distinct_levels
from hjepa.runs.load import untrained_encoder
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset, Split, Splits
    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")


def prepare(
    run: TrainedRun,
    config: Config,
    splits: Splits,
    split: Split,
    readings: Readings,
    levels: tuple[int, ...],
    k_values: Sequence[int] | None,
    console: bool,
) -> Subject:
    """Draw the images, encode them and read their labels.

    Args:
        run: the trained model.
        config: of the evaluation.
        splits: the images.
        split: the requested one.
        readings: what to encode besides the levels.
        levels: levels to report separately.
        k_values: numbers of neighbours to check before encoding; None for the default, or if there is no k-NN.
        console: draw progress bars where standard output is a terminal.

    Raises:
        UserError: images that cannot be read, too many neighbours, or features that are not finite.
    """
    view = view_of(run, config)
    encoders = _encoders(run, readings)
    train = splits.train
    read: dict[str, ImageDataset] = {split: splits.of(split)}
    limits = config.evaluation
    train_rows = draw_train(train.labels, len(train), limits.train_images, config.seed, train.division.withheld)
    check_k(k_values, len(train_rows))  # fail before encoding, which may take minutes
    requested = [
        build(Request(name, *parts_of(name), run, config, splits, train_rows, view.device))
        for name in readings.on_request
    ]
    if split == "test" and train.labels is not None:
        beside = splits.validation
        if beside is not None and beside.labels is not None:
            read["validation"] = beside
    rows = {name: draw_read(data.labels, len(data), limits.test_images, config.seed) for name, data in read.items()}
    log.info(
        "evaluation: encoding %d training%s images of %s",
        len(train_rows),
        "".join(f"{' and' if name == list(rows)[-1] else ','} {len(found)} {name}" for name, found in rows.items()),
        train.description,
    )
    total = len(train_rows) + sum(len(found) for found in rows.values())
    features: dict[str, dict[str, Tensor]] = {}
    with WorkProgress("evaluation: encoded", total, "images", console=console) as progress:
        train_features, train_rows = encode(train, train_rows, encoders, view, progress)
        _check_finite(train_features["trained"], run.checkpoint)
        for name, data in read.items():
            features[name], rows[name] = encode(data, rows[name], encoders, view, progress)
    more = [_requested(control, view, train, train_rows, read, rows, console) for control in requested]
    return Subject(
        run=run,
        config=config,
        splits=splits,
        split=split,
        read=read,
        rows=rows,
        train_rows=train_rows,
        view=view,
        readings=readings,
        levels=levels,
        representations=[*_representations(run, readings, train_features, features, view.device), *more],
        task=_task(train, train_rows, read, rows, config.seed),
        k_values=k_values,
        console=console,
        on_request=[dict(control.about) for control in requested],
    )


def _requested(
    control: NamedEncoder,
    view: View,
    train: ImageDataset,
    train_rows: Tensor,
    read: Mapping[str, ImageDataset],
    rows: Mapping[str, Tensor],
    console: bool,
) -> Representation:
    """Features of a control on request, of the same images at the size that it takes."""
    own = control.view(view)
    home = torch.device("cpu") if view.device.type == "mps" else view.device
    total = len(train_rows) + sum(len(found) for found in rows.values())
    log.info("evaluation: encoding by %s", control.name)
    with WorkProgress(f"evaluation: encoded by {control.name}", total, "images", console=console) as progress:
        found, _ = encode(train, train_rows, [control.reader()], own, progress)
        others = {
            split: encode(data, rows[split], [control.reader()], own, progress)[0] for split, data in read.items()
        }
    return Representation(
        control.name,
        [found[control.name].to(home)],
        {split: [features[control.name].to(home)] for split, features in others.items()},
    )


def view_of(run: TrainedRun, config: Config) -> View:
    """How images are prepared for the model of a run."""
    return View(
        image_size=run.encoder.geometry.height_width,
        mean=run.mean,
        std=run.std,
        device=next(run.encoder.parameters()).device,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        pin_memory=config.data.pin_memory,
    )


def _encoders(run: TrainedRun, readings: Readings) -> list[Reader]:
    """The encoders, and raw pixels if a control needs them."""
    encoders: list[Reader] = [encoder_reader(run.encoder, "trained", readings.depths)]
    if "untrained" in readings.controls:
        encoders.append(encoder_reader(untrained_encoder(run), "untrained", readings.depths))
    if {"pixels", "pca"} & set(readings.controls):
        encoders.append(lambda images: {"pixels": pixels(images)})
    return encoders


def _representations(
    run: TrainedRun,
    readings: Readings,
    train: Mapping[str, Tensor],
    read: Mapping[str, Mapping[str, Tensor]],
    device: torch.device,
) -> list[Representation]:
    """Features divided into levels, and the principal components of the pixels.

    Args:
        run: the trained model.
        readings: what was encoded.
        train: features by name, [N, D].
        read: the same by split.
        device: of the encoders.
    """
    model = run.encoder
    home = torch.device("cpu") if device.type == "mps" else device  # the solvers need float64
    found = []
    for name in train:
        parts = 1 if name == "pixels" else len(readings.depths) if name.endswith("_depths") else model.num_levels
        if name == "pixels" and "pixels" not in readings.controls:
            continue
        distinct = distinct_levels(model.geometry) if name in ("trained", "untrained") else None
        levels = {split: list(features[name].to(home).chunk(parts, dim=1)) for split, features in read.items()}
        found.append(Representation(name, list(train[name].to(home).chunk(parts, dim=1)), levels, distinct))
    if "pca" in readings.controls:
        log.info("evaluation: principal components of the pixels")
        components, others = pixel_components(
            train["pixels"], {split: features["pixels"] for split, features in read.items()}
        )
        found.append(Representation("pca", [components.to(home)], {split: [c.to(home)] for split, c in others.items()}))
    return found


def _task(
    train: ImageDataset, train_rows: Tensor, read: Mapping[str, ImageDataset], rows: Mapping[str, Tensor], seed: int
) -> Task | str:
    """The classification task, or the reason why there is none."""
    lacking = [data.split for data in (train, *read.values()) if data.labels is None]
    if lacking:
        split = {"train": "training"}.get(lacking[0], lacking[0])
        return "no labels" if len(lacking) == 1 + len(read) else f"no labels in the {split} split"
    assert train.labels is not None
    train_labels = train.labels[train_rows]
    read_labels = {name: data.labels[rows[name]] for name, data in read.items() if data.labels is not None}
    if len(torch.unique(train_labels)) < 2:
        return "images of one class only"
    named = 0 if train.class_names is None else len(train.class_names)
    classes = max(named, *(int(labels.max()) + 1 for labels in (train_labels, *read_labels.values())))
    return Task(train_labels, read_labels, classes, seed)


def _check_finite(features: Tensor, checkpoint: Path) -> None:
    if not torch.isfinite(features).all():
        raise DivergenceError(
            f"{checkpoint}: features are NaN or infinite, the run has diverged; use an earlier checkpoint"
        )
