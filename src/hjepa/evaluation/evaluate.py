"""Evaluate a checkpoint against controls, and write ``results.json``."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.data import Split, Splits
from hjepa.errors import DivergenceError
from hjepa.evaluation.controls import pixel_components, pixel_size, pixels
from hjepa.evaluation.features import Reader, View, encode, encoder_reader
from hjepa.evaluation.results import origin, results_path, write_results
from hjepa.evaluation.sample import draw_read, draw_train
from hjepa.evaluation.scores import Representation, Scores, Task, knn_scores, probe_scores, side_by_side
from hjepa.evaluation.settings import (
    CONTROLS,
    MAIN_K,
    Readings,
    check_controls,
    check_depths,
    check_k,
    check_levels,
    check_own_split,
    check_split,
    evaluation_config,
    is_own_data,
    parse_eval_types,
)
from hjepa.metrics import cka_matrix, rankme
from hjepa.models import distinct_levels
from hjepa.runs.load import TrainedRun, untrained_encoder
from hjepa.runtime.work_progress import WorkProgress
from hjepa.zoo import load_encoder

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset

log = logging.getLogger("hjepa")


def evaluate(
    checkpoint: str | Path,
    *,
    split: Split = "test",
    dataset: str | None = None,
    data_path: str | Path | None = None,
    eval_type: str | Sequence[str] = "all",
    k_values: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    controls: Sequence[str] = CONTROLS,
    batch_size: int | None = None,
    device: str = "auto",
    output: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: bool = False,
) -> dict[str, Any]:
    """Evaluate a trained model, with raw pixels, their principal components and its own untrained copy as controls.

    Features are computed once: the target encoder's features at every level, averaged over cells, for at most
    ``evaluation.train_images`` training images (balanced over classes, without validation images) and at most
    ``evaluation.test_images`` images of each split that is read. Everything is fitted on training images, which also
    decide the probe's regularisation. With ``split="test"``, validation images are evaluated too, by the same probes;
    with ``split="validation"``, test is not read. Without labels the linear probe and k-NN are skipped, as the log and
    the results state.

    Args:
        checkpoint: a ``.pth`` file, a run folder (its last checkpoint), a packed folder or a shipped model's name.
        split: ``"validation"`` to choose between runs, ``"test"`` to report the chosen one.
        dataset: name of a data set to use instead of the run's.
        data_path: where the data set is.
        eval_type: ``linear_probe``, ``knn`` or ``all``; separated by commas, or a sequence.
        k_values: numbers of neighbours; the main k-NN result is that of 20 if it is among them, otherwise of the
            largest. The default is 1, 5, 10 and 20, as far as there are training images.
        levels: levels to report separately; all by default. ``trained`` and ``untrained`` always use all levels
            together.
        depths: encoder blocks whose features are also evaluated, concatenated, as ``trained_depths`` and
            ``untrained_depths``; this compares a one-level model with one that has levels there.
        controls: which of ``untrained``, ``pixels`` and ``pca`` to compute; omit them only if they are already known,
            as in a study.
        batch_size: images per forward pass; at least 64 by default.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        output: the file to write. The default is ``results.json`` in the run folder, with ``_<dataset>`` in its name
            for another data set and ``_validation`` for the validation split.
        overrides: ``["section.key=value", ...]``, or a mapping from dotted keys to values, for keys that select or load
            images.
        console: draw progress bars where standard output is a terminal; progress is logged otherwise.

    Returns:
        the contents of the file; accuracies are between 0 and 1. See ``docs/evaluation.md`` for the keys.

    Raises:
        UserError: checkpoint or data not found, no validation images to read, an argument out of range, a key that
            would change which images of the run's own data are held out, features that are not finite, or an output
            file that cannot be written.
    """
    check_split(split)
    types = parse_eval_types(eval_type)
    run = load_encoder(checkpoint, device=device)
    config = evaluation_config(
        run.config,
        run.channels,
        dataset=dataset,
        data_path=data_path,
        batch_size=batch_size,
        overrides=overrides,
    )
    wanted_levels = check_levels(levels, run.encoder.num_levels)
    readings = Readings(check_depths(depths, run.encoder.geometry.depth), check_controls(controls))
    splits = Splits(config.data, config.seed)
    own = is_own_data(run, config)
    check_own_split(run.config, config, splits, own=own)
    path = results_path(run, config, output, other_data=not own, split=split)
    with _exact_products():
        features = _features(run, config, splits, split, readings, k_values if "knn" in types else None, console)
        results = _results(run, config, features, readings, types, wanted_levels, k_values, console)
    write_results(path, results)
    log.info("wrote %s", path)
    return results


@dataclass(frozen=True)
class _Features:
    """Result of one pass over the images. `task` is the reason if the labels allow no classification."""

    split: Split
    """The requested split."""
    representations: list[Representation]
    task: Task | str
    description: str


def _features(
    run: TrainedRun,
    config: Config,
    splits: Splits,
    split: Split,
    readings: Readings,
    k_values: Sequence[int] | None,
    console: bool,
) -> _Features:
    model, seed = run.encoder, config.seed
    device = next(model.parameters()).device
    view = View(
        image_size=model.geometry.height_width,
        mean=run.mean,
        std=run.std,
        device=device,
        batch_size=config.data.batch_size,
        num_workers=config.data.num_workers,
        pin_memory=config.data.pin_memory,
    )
    encoders = _encoders(run, readings)
    train = splits.train
    read: dict[str, ImageDataset] = {split: splits.of(split)}
    limits = config.evaluation
    train_rows = draw_train(train.labels, len(train), limits.train_images, seed, train.division.withheld)
    check_k(k_values, len(train_rows))  # fail before encoding, which may take minutes
    if split == "test" and train.labels is not None:
        beside = splits.validation
        if beside is not None and beside.labels is not None:
            read["validation"] = beside
    rows = {name: draw_read(data.labels, len(data), limits.test_images, seed) for name, data in read.items()}
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
    task = _task(train, train_rows, read, rows, seed)
    home = torch.device("cpu") if device.type == "mps" else device  # the solvers need float64
    representations = []
    for name in train_features:
        parts = 1 if name == "pixels" else len(readings.depths) if name.endswith("_depths") else model.num_levels
        if name == "pixels" and "pixels" not in readings.controls:
            continue
        distinct = distinct_levels(model.geometry) if name in ("trained", "untrained") else None
        levels = {key: list(found[name].to(home).chunk(parts, dim=1)) for key, found in features.items()}
        representations.append(
            Representation(name, list(train_features[name].to(home).chunk(parts, dim=1)), levels, distinct)
        )
    if "pca" in readings.controls:
        log.info("evaluation: principal components of the pixels")
        pixels_of = {key: found["pixels"] for key, found in features.items()}
        components, found_components = pixel_components(train_features["pixels"], pixels_of)
        representations.append(
            Representation("pca", [components.to(home)], {key: [c.to(home)] for key, c in found_components.items()})
        )
    return _Features(split, representations, task, train.description)


def _encoders(run: TrainedRun, readings: Readings) -> list[Reader]:
    """The encoders, and raw pixels if a control needs them."""
    encoders: list[Reader] = [encoder_reader(run.encoder, "trained", readings.depths)]
    if "untrained" in readings.controls:
        encoders.append(encoder_reader(untrained_encoder(run), "untrained", readings.depths))
    if {"pixels", "pca"} & set(readings.controls):
        encoders.append(lambda images: {"pixels": pixels(images)})
    return encoders


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


def _results(
    run: TrainedRun,
    config: Config,
    features: _Features,
    readings: Readings,
    types: Sequence[str],
    levels: Sequence[int],
    k_values: Sequence[int] | None,
    console: bool,
) -> dict[str, Any]:
    networks = {r.name: r for r in features.representations if r.name in ("trained", "untrained")}
    trained = networks["trained"]
    train_images = len(trained.train[0])
    images = {name: len(found[0]) for name, found in trained.read.items()}
    task = None if isinstance(features.task, str) else features.task
    scores: dict[str, Scores] = {}
    if "linear_probe" in types:
        scores["linear_probe"] = _linear_probe(features, levels, console)
    if "knn" in types:
        scores["knn"] = _knn(features, levels, k_values, console)
    results: dict[str, Any] = {kind: found[features.split] for kind, found in scores.items()}
    log.info("evaluation: rank and similarity of levels")
    results["rank"] = {
        **{name: rankme(side_by_side(r.together[0])) for name, r in networks.items()},
        "levels": [
            {"level": level, **{name: rankme(r.train[level]) for name, r in networks.items()}} for level in levels
        ],
        "width": trained.train[0].shape[1],
        "images": train_images,
    }
    if readings.depths:
        results["depths"] = list(readings.depths)
    # JSON has no NaN (which a level with constant features gives), so it becomes null.
    results["cka"] = [[None if math.isnan(v) else v for v in row] for row in cka_matrix(trained.train).tolist()]
    results |= {
        "dataset": config.data.dataset,
        "description": features.description,
        "split": features.split,
        "images": images[features.split],
        "train_images": train_images,
        "classes": None if task is None else task.num_classes,
        "chance": None if task is None else task.chance,
        "majority": None if task is None else task.majority(features.split),
    }
    if features.split == "test":
        results["test_images"] = images["test"]
    if task is not None and features.split == "test" and "validation" in images:
        results["validation"] = {
            **{kind: found["validation"] for kind, found in scores.items()},
            "images": images["validation"],
            "majority": task.majority("validation"),
        }
    return results | {"protocol": _protocol(run, features.split, train_images, images), **origin(run)}


def _linear_probe(features: _Features, levels: Sequence[int], console: bool) -> Scores:
    task = features.task
    if not isinstance(task, str) and int(torch.bincount(task.train_labels).max()) < 2:
        task = "no class with two training images"  # none can be held out to choose l2
    if isinstance(task, str):
        log.warning("linear probe skipped: %s", task)
        return _skipped(features, task)
    log.info("evaluation: linear probe")
    return probe_scores(features.representations, task, levels, console=console)


def _knn(features: _Features, levels: Sequence[int], k_values: Sequence[int] | None, console: bool) -> Scores:
    task = features.task
    if isinstance(task, str):
        log.warning("k-NN skipped: %s", task)
        return _skipped(features, task)
    values, main_k = check_k(k_values, len(task.train_labels))
    if k_values is None and main_k < MAIN_K:
        log.warning("k-NN: k=%d, since there are only %d training images", main_k, len(task.train_labels))
    log.info("evaluation: k-NN")
    return knn_scores(features.representations, task, levels, values, main_k, console=console)


def _skipped(features: _Features, reason: str) -> Scores:
    return {split: {"skipped": reason} for split in features.representations[0].read}


def _check_finite(features: Tensor, checkpoint: Path) -> None:
    if not torch.isfinite(features).all():
        raise DivergenceError(
            f"{checkpoint}: features are NaN or infinite, the run has diverged; use an earlier checkpoint"
        )


def _protocol(run: TrainedRun, split: Split, train_images: int, images: Mapping[str, int]) -> str:
    height, width = pixel_size(run.encoder.geometry.height_width)
    beside = (
        f"; {images['validation']} validation images are evaluated by the same probes"
        if split == "test" and "validation" in images
        else ""
    )
    return (
        f"Target encoder, features averaged over cells, {train_images} training images (balanced over classes) and "
        f"{images[split]} {split} images, no augmentation{beside}. Labels of validation images are never used for fitting. Linear "
        "probe: features standardised with training statistics, multinomial logistic regression solved by L-BFGS, L2 "
        f"chosen on a stratified tenth of the training images, refitted on all of them, {split} images read once. k-NN: "
        "cosine similarity, uniform vote, each level L2-normalised. `trained` and `untrained` are all levels "
        "concatenated; untrained means the step-0 weights of the same run. Raw pixels at "
        f"{height}x{width}; PCA of these pixels fitted on training images. Rank: RankMe of the training features."
    )


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Full float32 matrix products: solvers stall at the three digits of TensorFloat-32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
