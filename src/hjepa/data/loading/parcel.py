"""Transfer of batches from a worker process: pixels through shared memory, or through pipes if that is full.

PyTorch sends every tensor through shared memory from a background thread; if the memory is full, the thread prints a
traceback and the batch is lost. Workers therefore move large tensors to shared memory themselves, where the failure can
be handled. Everything small is sent as NumPy arrays, which also saves a file descriptor each.
"""

from __future__ import annotations

import shutil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hjepa.data.targets import Boxes, Target, TargetKind


class Cuts(NamedTuple):
    """Crop boxes of all views of one image or of a batch."""

    boxes: np.ndarray
    """int64 [..., V, 4]: top, left, height, width in pixels of the image."""
    flips: np.ndarray
    """bool [..., V]: whether the view is flipped left to right."""
    sizes: np.ndarray
    """int64 [..., 2]: height and width of the image."""


class Prepared(NamedTuple):
    """A batch of cropped images."""

    views: list[Tensor]
    """[B, C, H, W] per view: uint8, or float32 in [0, 1] if any image has more than 8 bits. Empty if no image could be
    read."""
    indices: Tensor
    """int64 [B], the images actually used."""
    draws: np.ndarray
    """float64 [B, V, D], the random numbers of every view."""
    cuts: Cuts
    targets: Target | None
    """None if targets were not requested."""
    bad: list[tuple[int, str]]
    """Index and reason of every unreadable file."""


class _PackedTarget(NamedTuple):
    kind: TargetKind
    classes: np.ndarray | None
    objects: list[tuple[np.ndarray, np.ndarray, list[int]]]
    """Per view: boxes and labels of all images, and the number of boxes of each image."""
    texts: tuple[str, ...]


class Parcel(NamedTuple):
    """A batch in the form in which it is sent between processes."""

    large: list[Tensor | np.ndarray]
    """Pixels of each view, then maps of each view: tensors in shared memory, or arrays to be sent through a pipe."""
    views: int
    indices: np.ndarray
    draws: np.ndarray
    cuts: Cuts
    target: _PackedTarget | None
    bad: list[tuple[int, str]]

    @property
    def through_pipes(self) -> bool:
        """Whether shared memory was too small for any part."""
        return any(isinstance(part, np.ndarray) for part in self.large)


def pack(batch: Prepared) -> Parcel:
    """Pack a batch in the worker process."""
    targets = batch.targets
    maps = () if targets is None else targets.dense
    return Parcel(
        [_share(part) for part in (*batch.views, *maps)],
        len(batch.views),
        batch.indices.numpy(),
        batch.draws,
        batch.cuts,
        None if targets is None else _pack_target(targets),
        batch.bad,
    )


def unpack(parcel: Parcel) -> Prepared:
    """Unpack a batch in the main process."""
    large = [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in parcel.large]
    views, maps = large[: parcel.views], large[parcel.views :]
    targets = None if parcel.target is None else _unpack_target(parcel.target, tuple(maps))
    return Prepared(views, torch.from_numpy(parcel.indices), parcel.draws, parcel.cuts, targets, parcel.bad)


def free_shared_memory() -> str:
    """Free and total shared memory as text, for messages."""
    try:
        room = shutil.disk_usage("/dev/shm")
    except OSError:
        return "shared memory"
    return f"shared memory (/dev/shm: {room.free / 2**20:.0f} of {room.total / 2**20:.0f} MiB free)"


def _share(part: Tensor) -> Tensor | np.ndarray:
    try:
        part.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return np.asarray(part.numpy())
    return part


def _pack_target(target: Target) -> _PackedTarget:
    classes = None if target.classes is None else target.classes.numpy()
    objects = [
        (
            torch.cat([boxes for boxes, _ in view]).numpy(),
            torch.cat([labels for _, labels in view]).numpy(),
            [len(labels) for _, labels in view],
        )
        for view in target.boxes
    ]
    return _PackedTarget(target.kind, classes, objects, target.texts)


def _unpack_target(packed: _PackedTarget, maps: tuple[Tensor, ...]) -> Target:
    views = []
    for boxes, labels, counts in packed.objects:
        parts = (torch.split(torch.from_numpy(values), counts) for values in (boxes, labels))
        views.append([Boxes(*pair) for pair in zip(*parts, strict=True)])
    classes = None if packed.classes is None else torch.from_numpy(packed.classes)
    return Target(packed.kind, classes, maps, tuple(views), packed.texts)
