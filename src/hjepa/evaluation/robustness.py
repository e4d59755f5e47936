"""Accuracy of linear probes on corrupted images (Hendrycks and Dietterich, arXiv:1903.12261)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from hjepa.evaluation.features import Reader, View
from hjepa.metrics import LinearClassifier
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder

PROTOCOL = (
    "The linear probe fitted on features of clean training images, all levels together, read on corrupted images of the "
    "split: 12 kinds of ImageNet-C that need no external files, 5 severities each, own implementation with lengths "
    "relative to the image, rounded to 8 bits. Accuracies do not compare with published ones. `mean`: average over all "
    "kinds and severities; `drop`: 1 - mean / clean."
)


def concatenated(encoder: Encoder, name: str) -> Reader:
    """A reader of the features that the linear probe of all levels sees, [B, depths * D] under ``name``."""

    def read(images: Tensor) -> dict[str, Tensor]:
        return {name: encoder.extract_features(images, depths=encoder.depths)}

    return read


def robustness(
    readers: Mapping[str, Reader],
    probes: Mapping[str, LinearClassifier],
    dataset: ImageDataset,
    rows: Tensor,
    *,
    view: View,
    seed: int,
    console: bool = False,
) -> dict[str, Any]:
    """Accuracy of every probe on clean images and on every corruption of them.

    Args:
        readers: by name of the representation; the features must be under the same name.
        probes: by the same names.
        dataset: labelled images.
        rows: int64, the images.
        view: size, normalisation and device of the images.
        seed: seed of the corruptions.
        console: show progress.

    Returns:
        ``clean``, ``mean`` and ``drop`` by representation; ``kinds``: a list with, for each kind, the accuracy by
        representation, averaged over severities, and ``severities``, the same for each.
    """
    pictures, labels, kept = _clean(dataset, rows, view)
    right = {(kind, severity): dict.fromkeys(readers, 0) for kind in KINDS for severity in SEVERITIES}
    clean = dict.fromkeys(readers, 0)
    blocks = list(torch.split(torch.arange(len(kept)), view.batch_size))
    total = len(blocks) * (1 + len(right))
    with WorkProgress("evaluation: corrupted images", total, "batches", console=console) as progress:
        for block in blocks:
            _count(clean, pictures[block], labels[block], readers, probes, view)
            progress.advance()
            for (kind, severity), counts in right.items():
                images = corrupt(pictures[block], kind, severity, kept[block].tolist(), seed)
                _count(counts, images, labels[block], readers, probes, view)
                progress.advance(note=kind.replace("_", " "))
    return _summary(right, clean, len(kept))


def _summary(right: dict[tuple[str, int], dict[str, int]], clean: dict[str, int], images: int) -> dict[str, Any]:
    by_cell = {cell: {name: count / images for name, count in counts.items()} for cell, counts in right.items()}
    base = {name: count / images for name, count in clean.items()}
    mean = {name: _mean([scores[name] for scores in by_cell.values()]) for name in clean}
    kinds = []
    for kind in KINDS:
        severities = [by_cell[kind, severity] for severity in SEVERITIES]
        average = {name: _mean([scores[name] for scores in severities]) for name in clean}
        kinds.append({"kind": kind, **average, "severities": severities})
    return {
        "clean": base,
        "mean": mean,
        "drop": {name: 1 - mean[name] / base[name] if base[name] else None for name in clean},
        "kinds": kinds,
        "images": images,
        "protocol": PROTOCOL,
    }


def _clean(dataset: ImageDataset, rows: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Images [M, C, H, W] in [0, 1] on the CPU, their labels and their rows."""
    batches = list(_read(dataset, rows, view))
    kept = torch.cat([indices for _, indices in batches])
    assert dataset.labels is not None
    return torch.cat([images for images, _ in batches]), dataset.labels[kept], kept


def _read(dataset: ImageDataset, rows: Tensor, view: View) -> Iterator[tuple[Tensor, Tensor]]:
    zero, one = (0.0,) * dataset.channels, (1.0,) * dataset.channels
    plain = replace(view, mean=zero, std=one, device=torch.device("cpu"))
    for batch in plain.batches(dataset, rows):
        yield batch.images, batch.indices


@torch.inference_mode()
def _count(
    counts: dict[str, int],
    pictures: Tensor,
    labels: Tensor,
    readers: Mapping[str, Reader],
    probes: Mapping[str, LinearClassifier],
    view: View,
) -> None:
    """Add the images that each probe classifies correctly."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))
    images = ((pictures - mean) / std).to(view.device)
    for name, reader in readers.items():
        probe = probes[name]
        predicted = probe.predict(reader(images)[name].to(probe.weight.device)).cpu()
        counts[name] += int((predicted == labels).sum())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
