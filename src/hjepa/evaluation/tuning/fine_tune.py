"""Fine-tuning of a trained encoder with labels, and of its untrained copy with the same budget."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hjepa.evaluation.features import View
from hjepa.evaluation.tuning.classifier import Classifier
from hjepa.evaluation.tuning.training import Recipe, classify, train_classifier
from hjepa.metrics import accuracy
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config import DataConfig
    from hjepa.config.protocols import FineTuneConfig
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder

log = logging.getLogger("hjepa")

PROTOCOL = (
    "A linear head on the mean-pooled features of all levels, trained together with the encoder: AdamW, linear warm-up "
    "over a tenth of the steps, cosine, gradient norm clipped to 1, the run's own crops, flips and colours; "
    "the encoder after the last step is scored, none is selected. The untrained encoder has the same budget."
)


@dataclass(frozen=True)
class Labelled:
    """Images of one split and the rows to use, all of which have labels."""

    data: ImageDataset
    rows: Tensor
    """int64."""


def fine_tune(
    encoders: Mapping[str, Encoder],
    train: Labelled,
    read: Mapping[str, Labelled],
    *,
    num_classes: int,
    settings: FineTuneConfig,
    data: DataConfig,
    view: View,
    seed: int,
    bf16: bool = False,
    console: bool = False,
) -> dict[str, Any]:
    """Fine-tune a copy of every encoder, whole and its last blocks only, and score it.

    Args:
        encoders: by name; not changed.
        train: images to fit on.
        read: by split, images to score.
        num_classes: C.
        settings: ``evaluation.fine_tune``.
        data: augmentation and loading.
        view: size, normalisation and device of the images.
        seed: head, order and crops.
        bf16: train in bfloat16; scores are always computed in float32.
        console: show progress.

    Returns:
        ``full`` and, unless ``blocks`` is 0, ``last_blocks``: by split the accuracy of every encoder; ``changed``: by
        encoder, how many of the encoder's tensors training changed, and how many there are; and the settings.
    """
    images = train.data.select(train.rows)
    recipe = recipe_of(settings, len(images), bf16=bf16)
    depth = next(iter(encoders.values())).geometry.depth
    variants = {"full": depth} | ({"last_blocks": settings.blocks} if 0 < settings.blocks < depth else {})
    results: dict[str, Any] = {}
    total = recipe.steps * len(encoders) * len(variants)
    with WorkProgress("evaluation: fine-tuning", total, "steps", console=console) as progress:
        for variant, blocks in variants.items():
            scores: dict[str, dict[str, float]] = {split: {} for split in read}
            changed: dict[str, Any] = {}
            for name, encoder in encoders.items():
                model = Classifier(encoder, num_classes, seed)
                model.train_last_blocks(blocks)
                train_classifier(model, images, data, view, recipe, seed=seed, progress=progress)
                changed[name] = changed_tensors(encoder, model.encoder)
                for split, part in read.items():
                    scores[split][name] = _accuracy(model, part, view)
            results[variant] = {**scores, "changed": changed}
    return {
        **results,
        "images": len(images),
        "steps": recipe.steps,
        **settings.model_dump(exclude={"images", "test_images"}),
        "protocol": PROTOCOL,
    }


def recipe_of(settings: FineTuneConfig, images: int, *, bf16: bool = False) -> Recipe:
    """How ``evaluation.fine_tune`` trains on a number of images."""
    size = min(settings.batch_size, images)
    return Recipe(
        steps=max(1, images // size) * settings.epochs,
        batch_size=size,
        lr=settings.lr,
        layer_decay=settings.layer_decay,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        bf16=bf16,
    )


def changed_tensors(before: Encoder, after: Encoder) -> dict[str, int]:
    """How many of the parameters of an encoder differ from those before, and how many there are."""
    pairs = list(zip(before.parameters(), after.parameters(), strict=True))
    return {"changed": sum(not a.detach().equal(b.detach()) for a, b in pairs), "tensors": len(pairs)}


def _accuracy(model: Classifier, part: Labelled, view: View) -> float:
    predicted, rows = classify(model, part.data, part.rows, view)
    assert part.data.labels is not None
    return accuracy(predicted, part.data.labels[rows])
