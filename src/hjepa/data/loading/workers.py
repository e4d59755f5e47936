"""Decode and crop images one by one, in worker processes if there are any.

Workers have no random state. The main process derives the index and the random numbers of each image from (seed, step,
position), so results do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from hjepa.data.dataset import BadFile, EncodedPixels, ImageDataset, Pixels, UnreadableStretchError
from hjepa.data.images.crops import random_crops
from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.images.resample import Box, crop_one, crop_one_8_bit, crop_reduced, largest_reduction
from hjepa.data.images.target_crops import seen_in_views
from hjepa.data.loading.parcel import Cuts, Parcel, Prepared, pack
from hjepa.data.targets import TargetKind, Targets, TargetValue, collate_targets
from hjepa.data.views import ViewSpec

# Number of consecutive unreadable files after which to give up.
_SUBSTITUTES = 100


class Job(NamedTuple):
    """One image to prepare."""

    row: int
    """Its index in the data set."""
    draws: np.ndarray
    """float64 [V, D], of `view_draws`; [V, 0] for evaluation."""


class Plan:
    """Crop boxes of all views of one image; made once its size is known, which may be before it is decoded.

    Args:
        views: one specification per view.
        draws: float64 [V, D].

    Attributes:
        size: height and width of the image; zeros until known.
        boxes: crop box of each view: top, left, height, width in pixels.
        flips: whether each view is flipped left to right.
    """

    # Plain numbers, as creating arrays would cost more than cropping a small image.
    def __init__(self, views: Sequence[ViewSpec], draws: np.ndarray) -> None:
        self._views = views
        self.draws = draws
        self.size = (0, 0)
        self.boxes: list[Box] = []
        self.flips: list[bool] = []

    def make(self, height: int, width: int) -> None:
        """Make the boxes for an image of this size."""
        if self.size == (height, width):
            return
        self.size = (height, width)
        size = np.array([self.size])
        crops = [random_crops(row[None], size, spec) for row, spec in zip(self.draws, self._views, strict=True)]
        self.boxes = [(box[0], box[1], box[2], box[3]) for (box,) in (crop.boxes.tolist() for crop in crops)]
        self.flips = [bool(crop.flips[0]) for crop in crops]

    def reduction(self, height: int, width: int) -> int:
        """Largest factor by which an image of this size may be decoded smaller without upsampling any view."""
        self.make(height, width)
        return min(largest_reduction(box, spec.plane) for box, spec in zip(self.boxes, self._views, strict=True))


class Item(NamedTuple):
    """One image as a worker has prepared it."""

    views: list[Tensor]
    """[C, H, W] per view; empty if nothing could be read."""
    row: int
    """Index of the image actually used."""
    plan: Plan
    seen: list[TargetValue]
    """The target in each view; empty if targets were not requested."""
    bad: list[tuple[int, str]]
    """Index and reason of every unreadable file."""


class Preparation(Dataset[Item]):
    """Decodes an image once and crops all its views.

    Args:
        pixels: the images.
        views: one specification per view.
        targets: targets of the images; None to leave them out.
        substitute: whether to replace an unreadable image by the next readable one.
        reduce: whether to decode JPEG files smaller if every view reduces them at least as much.
    """

    def __init__(
        self,
        pixels: Pixels,
        views: Sequence[ViewSpec],
        *,
        targets: Targets | None = None,
        substitute: bool,
        reduce: bool = False,
    ) -> None:
        self.pixels = pixels
        self.targets = targets
        self.views = tuple(views)
        self.substitute = substitute
        self.reduce = reduce

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, job: Job) -> Item:
        bad: list[tuple[int, str]] = []
        index = job.row
        for _ in range(min(_SUBSTITUTES, len(self)) if self.substitute else 1):
            plan = Plan(self.views, job.draws)
            try:
                views = self._read_and_cut(index, plan)
                seen = self._see(index, plan)
            except UnreadableImageError as error:
                bad.append((index, str(error)))
                index = (index + (error.length if isinstance(error, UnreadableStretchError) else 1)) % len(self)
                continue
            return Item(views, index, plan, seen, bad)
        return Item([], job.row, Plan(self.views, job.draws), [], bad)

    def _read_and_cut(self, index: int, plan: Plan) -> list[Tensor]:
        if isinstance(self.pixels, EncodedPixels):
            image, _, reduction = self.pixels.read_for_crop(index, plan.reduction if self.reduce else None)
        else:
            image, reduction = self.pixels.read(index), 1
        if reduction == 1:
            plan.make(*image.shape[1:])
        return [
            _cut(image, reduction, box, flip, spec.plane)
            for spec, box, flip in zip(self.views, plan.boxes, plan.flips, strict=True)
        ]

    def _see(self, index: int, plan: Plan) -> list[TargetValue]:
        if self.targets is None:
            return []
        return seen_in_views(self.targets.read(index), plan.boxes, plan.flips, plan.size, self.views)


def _cut(image: Tensor, reduction: int, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """Crop one view. 8-bit images stay 8-bit: a quarter of the memory to transfer, for half a grey level of
    rounding."""
    if reduction > 1:
        return crop_reduced(image, reduction, box, flip, out_size)
    return (crop_one_8_bit if image.dtype == torch.uint8 else crop_one)(image, box, flip, out_size)


class Collation:
    """Collate function: stacks the readable images and, in a worker process, packs the batch for transfer.

    Args:
        preparation: the source of the images.
    """

    def __init__(self, preparation: Preparation) -> None:
        self._kind: TargetKind | None = None if preparation.targets is None else preparation.targets.kind

    def __call__(self, items: list[Item]) -> Prepared | Parcel:
        """Collate the images of a batch."""
        batch = collate(items, self._kind)
        return batch if get_worker_info() is None else pack(batch)


def collate(items: list[Item], kind: TargetKind | None = None) -> Prepared:
    """Stack the readable images into a batch, with targets of the given kind, if any."""
    bad = [entry for item in items for entry in item.bad]
    read = [item for item in items if item.views]
    indices = torch.tensor([item.row for item in read], dtype=torch.int64)
    plans = [item.plan for item in read]
    cuts = Cuts(
        np.array([plan.boxes for plan in plans]),
        np.array([plan.flips for plan in plans]),
        np.array([plan.size for plan in plans]),
    )
    if not read:
        return Prepared([], indices, np.zeros((0, 0, 0)), cuts, None, bad)
    return Prepared(
        [_stack(list(same)) for same in zip(*(item.views for item in read), strict=True)],
        indices,
        np.stack([plan.draws for plan in plans]),
        cuts,
        None if kind is None else collate_targets(kind, [item.seen for item in read]),
        bad,
    )


def _stack(images: list[Tensor]) -> Tensor:
    if len({image.dtype for image in images}) > 1:
        images = [image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image for image in images]
    return torch.stack(images)


def note_bad(dataset: ImageDataset, bad: list[tuple[int, str]]) -> None:
    """Record files that a worker could not read. Raises `DataError` under ``data.bad_images=stop``."""
    for index, reason in bad:
        dataset.note_bad(BadFile(dataset.identifiers[index], reason))


def reads_files(dataset: ImageDataset) -> bool:
    """Whether images are decoded on every read, so that worker processes pay off."""
    return isinstance(dataset.pixels, EncodedPixels)
