"""Evaluate a checkpoint against controls, and write ``results.json``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hjepa.data import Split, Splits
from hjepa.evaluation.controls import pixel_size
from hjepa.evaluation.prepare import prepare
from hjepa.evaluation.protocols import DEFAULT_TYPES, PROTOCOLS, parse_eval_types
from hjepa.evaluation.results import origin, results_path, without_nan, write_results
from hjepa.evaluation.scores import side_by_side
from hjepa.evaluation.settings import (
    CONTROLS,
    Readings,
    check_controls,
    check_depths,
    check_levels,
    check_own_split,
    check_split,
    evaluation_config,
    is_own_data,
)
from hjepa.metrics import cka_matrix, rankme
from hjepa.zoo import load_encoder

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject
    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")


def evaluate(
    checkpoint: str | Path,
    *,
    split: Split = "test",
    dataset: str | None = None,
    data_path: str | Path | None = None,
    eval_type: str | Sequence[str] = DEFAULT_TYPES,
    k_values: Sequence[int] | None = None,
    levels: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    controls: Sequence[str] = CONTROLS,
    batch_size: int | None = None,
    device: str = "auto",
    output: str | Path | None = None,
    label: str | None = None,
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
        eval_type: names of `hjepa.evaluation.protocols.PROTOCOLS`, separated by commas, or a sequence; ``all`` for
            every one that needs nothing but labelled images. The default is ``linear_probe,knn``.
        k_values: numbers of neighbours; the main k-NN result is that of 20 if it is among them, otherwise of the
            largest. The default is 1, 5, 10 and 20, as far as there are training images.
        levels: levels to report separately; all by default. ``trained`` and ``untrained`` always use all levels
            together.
        depths: encoder blocks whose features are also evaluated, concatenated, as ``trained_depths`` and
            ``untrained_depths``; this compares a one-level model with one that has levels there.
        controls: which of ``untrained``, ``pixels`` and ``pca`` to compute; omit them only if they are already known,
            as in a study. Further encoders: ``timm:NAME`` and ``torchvision:NAME`` with pretrained weights,
            ``timm:NAME@random``, or ``timm:NAME@FILE`` with the weights in a file.
        batch_size: images per forward pass; at least 64 by default.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        output: the file to write. The default is ``results.json`` in the run folder, with ``_<dataset>`` in its name
            for another data set and ``_validation`` for the validation split.
        label: in the name of the default results file in place of the data set's name.
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
    readings = Readings(check_depths(depths, run.encoder.geometry.depth), *check_controls(controls))
    splits = Splits(config.data, config.seed)
    own = is_own_data(run, config)
    check_own_split(run.config, config, splits, own=own)
    path = results_path(run, config, output, other_data=not own, split=split, label=label)
    with _exact_products():
        subject = prepare(
            run, config, splits, split, readings, wanted_levels, k_values if "knn" in types else None, console
        )
        results = _results(subject, types)
    write_results(path, results)
    log.info("wrote %s", path)
    return results


def _results(subject: Subject, types: Sequence[str]) -> dict[str, Any]:
    run, task, split = subject.run, subject.task, subject.split
    networks = {r.name: r for r in subject.representations if r.name in ("trained", "untrained")}
    trained = networks["trained"]
    train_images = len(trained.train[0])
    images = {name: len(found[0]) for name, found in trained.read.items()}
    results, beside = _run_protocols(subject, types)
    log.info("evaluation: rank and similarity of levels")
    results["rank"] = {
        **{name: rankme(side_by_side(r.together[0])) for name, r in networks.items()},
        "levels": [
            {"level": level, **{name: rankme(r.train[level]) for name, r in networks.items()}}
            for level in subject.levels
        ],
        "width": trained.train[0].shape[1],
        "images": train_images,
    }
    if subject.readings.depths:
        results["depths"] = list(subject.readings.depths)
    results["cka"] = without_nan(cka_matrix(trained.train))
    if subject.on_request:
        results["controls"] = subject.on_request
    results |= {
        "dataset": subject.config.data.dataset,
        "description": subject.train.description,
        "split": split,
        "images": images[split],
        "train_images": train_images,
        "classes": None if isinstance(task, str) else task.num_classes,
        "chance": None if isinstance(task, str) else task.chance,
        "majority": None if isinstance(task, str) else task.majority(split),
    }
    if split == "test":
        results["test_images"] = images["test"]
    if not isinstance(task, str) and split == "test" and "validation" in images:
        results["validation"] = {
            **beside,
            "images": images["validation"],
            "majority": task.majority("validation"),
        }
    return results | {"protocol": _protocol(run, split, train_images, images), **origin(run)}


def _run_protocols(subject: Subject, types: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results by protocol: of the requested split, and of the validation images beside test."""
    requested: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for protocol in (PROTOCOLS[name] for name in types):
        found = protocol.run(subject)
        if isinstance(found, str):
            log.warning("%s skipped: %s", protocol.label, found)
            found = {"skipped": found}
            if protocol.beside_test:
                beside[protocol.name] = found
        elif "validation" in found:
            beside[protocol.name] = found.pop("validation")
        requested[protocol.name] = found
    return requested, beside


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
