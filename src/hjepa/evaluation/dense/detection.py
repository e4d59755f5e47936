"""Object detection: a detector on the patch features of an encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.data import Boxes
from hjepa.data.dense import DenseSet
from hjepa.errors import DataError, DivergenceError
from hjepa.evaluation.dense.average_precision import AveragePrecision, Detections, average_precision
from hjepa.evaluation.dense.detector import build_detector
from hjepa.evaluation.features import View
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config.protocols import DetectionConfig
    from hjepa.data import ImageDataset, Split
    from hjepa.models import Encoder

PROTOCOL = (
    "torchvision's Faster R-CNN on a simple feature pyramid (twice, once and half the grid of the patches) of the "
    "encoder's features of all levels. AdamW, weight decay 0.0001, warm-up over a tenth of the steps and cosine, flips; "
    "the last step is scored. Images and boxes are the largest centred crop with the model's aspect ratio at the size of "
    "its input, so figures on COCO do not compare with those on whole images. Average precision by pycocotools."
)
_BATCH = 16
_WARMUP = 0.1
_ENCODER_SHARE = 0.1


def detection(
    encoders: Mapping[str, Encoder],
    dense: DenseSet,
    split: Split,
    *,
    settings: DetectionConfig,
    view: View,
    seed: int,
    console: bool = False,
) -> dict[str, Any]:
    """Train a detector on every encoder, and score it.

    Args:
        encoders: ``trained`` and ``untrained``; not changed.
        dense: images with boxes.
        split: the split to score.
        settings: ``evaluation.detection``.
        view: size, normalisation and device of the images.
        seed: detector, order and flips.
        console: show progress.

    Returns:
        ``ap``, ``ap50``, ``ap75`` and ``recall`` by encoder; ``classes``: per class its AP; the data and the settings.

    Raises:
        UserError: pycocotools is not installed.
        DivergenceError: the loss became NaN or infinite.
        DataError: no readable image.
    """
    data, rows = dense.rows("train", seed, settings.train_images)
    read, read_rows = dense.rows(split, seed, settings.test_images)
    steps = settings.epochs * math.ceil(len(rows) / _BATCH)
    found: dict[str, AveragePrecision] = {}
    with WorkProgress("evaluation: detection", steps * len(encoders), "steps", console=console) as progress:
        for name, encoder in encoders.items():
            model = train_detector(encoder, data, rows, len(dense.classes), settings, view, seed, progress)
            truth, predicted = _predict(model, read, read_rows, view)
            found[name] = average_precision(truth, predicted, len(dense.classes))
    figures = ("ap", "ap50", "ap75", "recall")
    return {
        **{key: {name: getattr(scores, key) for name, scores in found.items()} for key in figures},
        "by_class": [
            {"class": label, **{name: scores.by_class[place] for name, scores in found.items()}}
            for place, label in enumerate(dense.classes)
        ],
        "dataset": dense.name,
        "description": dense.description,
        "split": split,
        "train_images": len(rows),
        "images": len(read_rows),
        **{key: getattr(settings, key) for key in ("epochs", "lr", "encoder")},
        "protocol": PROTOCOL,
    }


def train_detector(
    encoder: Encoder,
    data: ImageDataset,
    rows: Tensor,
    num_classes: int,
    settings: DetectionConfig,
    view: View,
    seed: int,
    progress: WorkProgress | None = None,
) -> nn.Module:
    """A detector on a copy of an encoder, in evaluation mode.

    Args:
        encoder: not changed.
        data: images with boxes.
        rows: int64, the images to train on.
        num_classes: object classes.
        settings: ``evaluation.detection``.
        view: size, normalisation and device of the images.
        seed: detector, order and flips.
        progress: told of every step.

    Raises:
        DivergenceError: the loss became NaN or infinite.
        DataError: no readable image.
    """
    trained = settings.encoder == "fine_tuned"
    own = copy.deepcopy(encoder).requires_grad_(trained)
    with torch.random.fork_rng([view.device] if view.device.type == "cuda" else []):
        # Weights, and the anchors and boxes that are sampled in training, come from PyTorch's generator.
        torch.manual_seed(seed)
        model = build_detector(own, num_classes, trained=trained).to(view.device).train()
        groups = _groups(model, own, settings.lr)
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
        steps = settings.epochs * math.ceil(len(rows) / _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [g["lr"] for g in groups], total_steps=steps + 1, pct_start=_WARMUP, cycle_momentum=False
        )
        for epoch in range(settings.epochs):
            generator = torch.Generator().manual_seed(seed * 1000 + epoch)
            order = rows[torch.randperm(len(rows), generator=generator)]
            for images, objects in _batches(data, order, view):
                optimizer.zero_grad()
                _backward(model, *_flipped(images, objects, generator), settings.lr)
                nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
                optimizer.step()
                schedule.step()
                if progress is not None:
                    progress.advance()
    return model.eval()


def _backward(model: nn.Module, images: Tensor, objects: list[Boxes], lr: float) -> None:
    losses = model(list(images), [_target(entry, images.device) for entry in objects])
    loss = torch.stack(list(losses.values())).sum()
    if not bool(torch.isfinite(loss)):
        raise DivergenceError(
            f"detection: the loss is NaN or infinite at evaluation.detection.lr={lr:g}; use a lower one"
        )
    loss.backward()  # type: ignore[no-untyped-call]


def _groups(model: nn.Module, encoder: Encoder, lr: float) -> list[dict[str, Any]]:
    """Parameters of the detector, and those of the encoder at a lower rate if it is trained."""
    inside = {id(parameter) for parameter in encoder.parameters()}
    own = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    backbone = [p for p in encoder.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": own, "lr": lr}]
    return groups + ([{"params": backbone, "lr": lr * _ENCODER_SHARE}] if backbone else [])


@torch.no_grad()
def _predict(model: nn.Module, data: ImageDataset, rows: Tensor, view: View) -> tuple[list[Boxes], list[Detections]]:
    truth: list[Boxes] = []
    predicted: list[Detections] = []
    for images, objects in _batches(data, rows, view):
        truth += objects
        for found in model(list(images)):
            left, top, right, bottom = found["boxes"].cpu().unbind(1)
            boxes = torch.stack([top, left, bottom - top, right - left], dim=1)
            predicted.append(Detections(boxes, found["labels"].cpu() - 1, found["scores"].cpu()))
    return truth, predicted


def _batches(data: ImageDataset, rows: Tensor, view: View) -> Iterator[tuple[Tensor, list[Boxes]]]:
    """Images on the device, and their objects on the CPU.

    Raises:
        DataError: none of the images can be read.
    """
    some = False
    for batch in view.batches(data, rows, batch_size=_BATCH, with_targets=True):
        assert batch.targets is not None
        some = True
        yield batch.images, batch.targets.boxes[0]
    if not some:
        raise DataError(f"{data.name}: no readable image in the {data.split} split; check the data path")


def _flipped(images: Tensor, objects: list[Boxes], generator: torch.Generator) -> tuple[Tensor, list[Boxes]]:
    """Half of the images mirrored, with their boxes."""
    flips = torch.rand(len(images), generator=generator) < 0.5
    width = images.shape[3]
    images = torch.where(flips.to(images.device)[:, None, None, None], images.flip(3), images)
    mirrored = []
    for entry, flip in zip(objects, flips.tolist(), strict=True):
        boxes = entry.boxes.clone()
        if flip:
            boxes[:, 1] = width - boxes[:, 1] - boxes[:, 3]
        mirrored.append(Boxes(boxes, entry.labels))
    return images, mirrored


def _target(objects: Boxes, device: torch.device) -> dict[str, Tensor]:
    """As torchvision's detectors read it: corners, and labels from 1."""
    top, left, height, width = objects.boxes.unbind(1)
    corners = torch.stack([left, top, left + width, top + height], dim=1)
    return {"boxes": corners.to(device), "labels": (objects.labels + 1).to(device)}
