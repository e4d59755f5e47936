"""Similarity of two runs: CKA between their levels on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hjepa.data import Split, Splits
from hjepa.errors import UserError
from hjepa.evaluation.features import encode, encoder_reader
from hjepa.evaluation.prepare import view_of
from hjepa.evaluation.results import without_nan
from hjepa.evaluation.sample import draw_read
from hjepa.evaluation.settings import check_split, evaluation_config
from hjepa.metrics import cka_matrix
from hjepa.runs.load import TrainedRun
from hjepa.zoo import load_encoder


def cka_between(
    run_a: str | Path | TrainedRun,
    run_b: str | Path | TrainedRun,
    *,
    split: Split = "test",
    dataset: str | None = None,
    data_path: str | Path | None = None,
    images: int = 2000,
    batch_size: int | None = None,
    device: str = "auto",
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> dict[str, Any]:
    """Linear CKA (arXiv:1905.00414) between all levels of two trained models.

    Both models see the same images, each resized and normalised as in its own training. 1 means that two levels have
    the same features up to rotation and scale; use clearly more images than a level has dimensions.

    Args:
        run_a, run_b: a checkpoint, run folder, packed folder or shipped name each, or a loaded run.
        split: ``validation`` or ``test``.
        dataset, data_path: images to compare on; those of the first run when not given.
        images: at most so many images, drawn with the first run's seed; at least 2.
        batch_size: images per forward pass; at least 64 by default.
        device: where to encode.
        overrides: keys that select or load images.

    Returns:
        ``cka``, a matrix with a row per level of the first model and a column per level of the second (None where a
        level has the same features for all images); ``within_a`` and ``within_b``, between the levels of each model;
        ``images``, ``split`` and ``description`` of the images; ``a`` and ``b``, the checkpoints.

    Raises:
        UserError: a model or images that cannot be read, or fewer than two images.
    """
    check_split(split)
    if images < 2:
        raise UserError(f"images: {images} cannot be compared; use 2 or more")
    runs = [run if isinstance(run, TrainedRun) else load_encoder(run, device=device) for run in (run_a, run_b)]
    config = evaluation_config(
        runs[0].config,
        runs[0].channels,
        dataset=dataset,
        data_path=data_path,
        batch_size=batch_size,
        overrides=overrides,
    )
    levels, rows, found = [], None, []
    for run in runs:
        # The split is that of the first run for both; only the number of channels is the model's own.
        data = config.data.model_copy(update={"channels": run.channels})
        read = Splits(data, config.seed).of(split)
        if rows is None:
            rows = draw_read(read.labels, len(read), images, config.seed)
            description = read.description
        features, kept = encode(read, rows, [encoder_reader(run.encoder, "model")], view_of(run, config))
        levels.append(features["model"].chunk(run.encoder.num_levels, dim=1))
        found.append(kept)
    if len(found[0]) < 2 or not torch.equal(*found):
        raise UserError(f"{description}: fewer than two images of the {split} split can be read by both models")
    count = len(levels[0])
    matrix = cka_matrix([*levels[0], *levels[1]])
    return {
        "cka": without_nan(matrix[:count, count:]),
        "within_a": without_nan(matrix[:count, :count]),
        "within_b": without_nan(matrix[count:, count:]),
        "images": len(found[0]),
        "split": split,
        "description": description,
        "a": str(runs[0].checkpoint),
        "b": str(runs[1].checkpoint),
        "protocol": (
            f"Linear CKA between levels, features averaged over cells, on the same {len(found[0])} {split} images, each "
            "resized and normalised for its model."
        ),
    }
