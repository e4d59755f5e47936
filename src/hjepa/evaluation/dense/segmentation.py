"""Semantic segmentation: heads on frozen patch features."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.data.dense import IGNORED, DenseSet
from hjepa.errors import DataError
from hjepa.evaluation.dense.heads import DecoderHead, LinearHead
from hjepa.evaluation.dense.maps import ALL, MapReader
from hjepa.evaluation.features import View
from hjepa.metrics import pixel_confusion, segmentation_scores
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.config.protocols import SegmentationConfig
    from hjepa.data import ImageDataset, Split

log = logging.getLogger("hjepa")

PROTOCOL = (
    "Heads on frozen patch features: `linear` classifies every cell (batch normalisation, 1x1 convolution), `decoder` is "
    "a small convolutional network; both are enlarged bilinearly to the size of the model's input. AdamW, weight decay "
    "0.01, warm-up over a tenth of the steps and cosine, cross-entropy, no augmentation, the last step is scored. Images "
    "and masks are the largest centred crop with the model's aspect ratio at the size of its input. Mean IoU over the "
    "classes that occur in truth or prediction, from the confusion matrix of all pixels. Raw pixels: the pixels of each "
    "patch in place of its features."
)
_BATCH = 32
_WARMUP = 0.1
# Features of the training images are kept if they take at most this much memory, in 16 bits.
_MOST_BYTES = 2 * 2**30


def segmentation(
    readers: Mapping[str, MapReader],
    dense: DenseSet,
    split: Split,
    *,
    settings: SegmentationConfig,
    view: View,
    seed: int,
    console: bool = False,
) -> dict[str, Any]:
    """Fit and score the heads on the patch features of every reader.

    Args:
        readers: ``trained``, ``untrained`` and ``pixels``.
        dense: images with maps of classes.
        split: the split to score.
        settings: ``evaluation.segmentation``.
        view: size, normalisation and device of the images.
        seed: heads and order.
        console: show progress.

    Returns:
        ``linear`` and ``decoder``: the mean IoU of all levels by reader; under ``linear`` also ``levels``;
        ``pixel_accuracy``: the same of both heads; ``iou``: per class for the decoder; the data and the settings.

    Raises:
        DataError: no readable image, or a mask with a class out of range.
    """
    fit = _Images(*dense.rows("train", seed, settings.train_images))
    read = _Images(*dense.rows(split, seed, settings.test_images))
    classes = len(dense.classes)
    found: dict[str, dict[tuple[str, str], Any]] = {}
    epochs = settings.epochs * len(readers)
    with WorkProgress("evaluation: segmentation", epochs, "epochs", console=console) as progress:
        for name, reader in readers.items():
            heads = _Heads(reader, view, classes, seed)
            _fit(heads, reader, fit, view, classes, settings, seed, progress)
            found[name] = _score(heads, reader, read, view, classes)
    return {
        **_arranged(found, dense.classes),
        "dataset": dense.name,
        "description": dense.description,
        "split": split,
        "train_images": len(fit.rows),
        "images": len(read.rows),
        "classes": classes,
        **{key: getattr(settings, key) for key in ("epochs", "lr")},
        "protocol": PROTOCOL,
    }


@dataclass(frozen=True)
class _Images:
    data: ImageDataset
    rows: Tensor


class _Heads(nn.Module):
    """A linear head for every map of a reader, and a decoder for all levels."""

    def __init__(self, reader: MapReader, view: View, classes: int, seed: int) -> None:
        super().__init__()
        probe = torch.zeros(1, len(view.mean), *view.image_size, device=view.device)
        with torch.no_grad():
            maps = reader.maps(reader.tokens(probe))
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.linear = nn.ModuleDict({name: LinearHead(m.shape[1], classes) for name, m in maps.items()})
            self.decoder = DecoderHead(maps[ALL].shape[1], classes)
        self.to(view.device)

    def forward(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> dict[tuple[str, str], Tensor]:
        """Logits by head and map."""
        logits = {("linear", name): head(maps[name], size) for name, head in self.linear.items()}
        return logits | {("decoder", ALL): self.decoder(maps[ALL], size)}


def _fit(
    heads: _Heads,
    reader: MapReader,
    images: _Images,
    view: View,
    classes: int,
    settings: SegmentationConfig,
    seed: int,
    progress: WorkProgress,
) -> None:
    """Train all heads in one pass: they share no parameter, so each is trained as if alone."""
    optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.lr, weight_decay=0.01)
    steps = settings.epochs * math.ceil(len(images.rows) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=steps + 1, pct_start=_WARMUP, cycle_momentum=False
    )
    batches = _TokenBatches(reader, images, view, classes)
    heads.train()
    for epoch in range(settings.epochs):
        for tokens, masks in batches(epoch, seed):
            logits = heads(reader.maps(tokens), tuple(masks.shape[1:]))
            loss = sum(
                (F.cross_entropy(found, masks, ignore_index=IGNORED) for found in logits.values()),
                torch.zeros((), device=view.device),
            )
            optimizer.zero_grad()
            # A batch whose pixels are all ignored has no loss.
            if bool(torch.isfinite(loss)):
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
        progress.advance()
    heads.eval()


class _TokenBatches:
    """Patch features and masks in a new random order every epoch; computed once if they fit in memory."""

    def __init__(self, reader: MapReader, images: _Images, view: View, classes: int) -> None:
        self.reader, self.images, self.view, self.classes = reader, images, view, classes
        self.kept: tuple[Tensor, Tensor] | None = None

    def __call__(self, epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """float32 [B, N, D] and int64 [B, H, W], on the device."""
        generator = torch.Generator().manual_seed(seed * 1000 + epoch)
        if epoch == 0:
            self.kept = self._all_if_small()
        if self.kept is None:
            order = self.images.rows[torch.randperm(len(self.images.rows), generator=generator)]
            yield from token_batches(self.reader, self.images.data, order, self.view, self.classes)
            return
        tokens, masks = self.kept
        for rows in torch.split(torch.randperm(len(tokens), generator=generator), _BATCH):
            yield tokens[rows].to(self.view.device).float(), masks[rows].to(self.view.device).long()

    def _all_if_small(self) -> tuple[Tensor, Tensor] | None:
        parts: list[tuple[Tensor, Tensor]] = []
        for tokens, masks in token_batches(self.reader, self.images.data, self.images.rows, self.view, self.classes):
            if tokens[0].numel() * 2 * len(self.images.rows) > _MOST_BYTES:
                return None
            parts.append((tokens.cpu().half(), masks.cpu().to(torch.int16)))
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([masks for _, masks in parts])


def token_batches(
    reader: MapReader, data: ImageDataset, rows: Tensor, view: View, classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Patch features [B, N, D] and masks int64 [B, H, W] of images, in the order of the rows, on the device.

    Raises:
        DataError: none of the images can be read, or a mask has a class out of range.
    """
    some = False
    for batch in view.batches(data, rows, batch_size=_BATCH, with_targets=True):
        assert batch.targets is not None
        some = True
        masks = batch.targets.dense[0].long()
        _check_classes(masks, classes, data)
        with torch.no_grad():
            tokens = reader.tokens(batch.images).float()
        yield tokens, masks
    if not some:
        raise DataError(f"{data.name}: no readable image in the {data.split} split; check the data path")


def _check_classes(masks: Tensor, classes: int, data: ImageDataset) -> None:
    known = masks[masks != IGNORED]
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise DataError(
            f"{data.name}: a mask has the value {int(known.max())}, but there are {classes} classes; correct the mask, or "
            "name all classes in classes.txt"
        )


@torch.no_grad()
def _score(heads: _Heads, reader: MapReader, images: _Images, view: View, classes: int) -> dict[tuple[str, str], Any]:
    totals: dict[tuple[str, str], Tensor] = {}
    for tokens, masks in token_batches(reader, images.data, images.rows, view, classes):
        for key, logits in heads(reader.maps(tokens), tuple(masks.shape[1:])).items():
            found = pixel_confusion(logits.argmax(dim=1), masks, classes, IGNORED)
            totals[key] = totals.get(key, torch.zeros_like(found)) + found
    return {key: segmentation_scores(total.cpu()) for key, total in totals.items()}


def _arranged(found: Mapping[str, dict[tuple[str, str], Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    together = {
        head: {name: scores[head, ALL].mean_iou for name, scores in found.items()} for head in ("linear", "decoder")
    }
    numbers = sorted(int(name.removeprefix("level_")) for _, name in found["trained"] if name != ALL)
    levels = [
        {
            "level": number,
            **{
                name: scores["linear", f"level_{number}"].mean_iou
                for name, scores in found.items()
                if ("linear", f"level_{number}") in scores
            },
        }
        for number in numbers
    ]
    return {
        "linear": {**together["linear"], "levels": levels},
        "decoder": together["decoder"],
        "pixel_accuracy": {
            head: {name: scores[head, ALL].pixel_accuracy for name, scores in found.items()}
            for head in ("linear", "decoder")
        },
        "iou": [
            {"class": label, **{name: scores["decoder", ALL].iou[place] for name, scores in found.items()}}
            for place, label in enumerate(classes)
        ],
    }
