"""Targets of images: a class, a dense map, boxes or a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

TargetKind = Literal["class", "dense", "boxes", "text"]


class Boxes(NamedTuple):
    """Objects in an image or in a view of it, as boxes with labels."""

    boxes: Tensor
    """float32 [M, 4]: top, left, height, width in pixels."""
    labels: Tensor
    """int64 [M]."""


TargetValue = int | Tensor | Boxes | str
"""The target of one image: a class, an integer map [*space] of the image's size, objects, or a text."""


class Sample(NamedTuple):
    """One item of a data set as it is stored."""

    pixels: Tensor
    """[C, *space]; [C, h, w] for images: uint8 (0 to 255), uint16 (0 to 65535) or float32 (0 to 1)."""
    target: TargetValue | None
    """None if the data set has no targets."""


class Targets(Protocol):
    """Targets of a data set, by index. Must be cheap to pickle, as they are sent to worker processes."""

    @property
    def kind(self) -> TargetKind:
        """The kind of all targets."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> TargetValue:
        """The target of one image. Raises `UnreadableImageError` with the reason if it cannot be read."""
        ...

    def select(self, rows: Tensor) -> Targets:
        """The targets of the given rows (int64), in that order."""
        ...


class ListedTargets:
    """Targets in memory.

    Args:
        kind: the kind of all targets.
        values: one per image: classes (an int64 tensor or ints, -1 for none), integer maps of the images' sizes (one
            tensor [N, *space] or a list of [*space]), `Boxes`, or texts.

    Raises:
        TypeError: a value is not of this kind.
    """

    def __init__(self, kind: TargetKind, values: Tensor | Sequence[TargetValue]) -> None:
        self._kind = kind
        self._values = values
        for index in range(len(values) if isinstance(values, list | tuple) else min(1, len(values))):
            _check(kind, values[index], index)

    @property
    def kind(self) -> TargetKind:
        """The kind of all targets."""
        return self._kind

    def __len__(self) -> int:
        return len(self._values)

    def read(self, index: int) -> TargetValue:
        """The target of one image."""
        value = self._values[index]
        return int(value) if self._kind == "class" and isinstance(value, Tensor) else value

    def select(self, rows: Tensor) -> ListedTargets:
        """The targets of the given rows (int64), in that order."""
        if isinstance(self._values, Tensor):
            return ListedTargets(self._kind, self._values[rows])
        return ListedTargets(self._kind, [self._values[row] for row in rows.tolist()])


@dataclass(frozen=True)
class Target:
    """The targets of a batch; only the field of its kind is set."""

    kind: TargetKind
    classes: Tensor | None = None
    """int64 [B], on the device; -1 for none."""
    dense: tuple[Tensor, ...] = ()
    """Per view int64 [B, *size], on the device: cropped and mirrored like the view."""
    boxes: tuple[list[Boxes], ...] = ()
    """Per view one `Boxes` per image, in pixels of the view, on the CPU."""
    texts: tuple[str, ...] = ()
    """One per image."""

    def to(self, device: torch.device) -> Target:
        """Move classes and maps to a device as int64; boxes and texts stay on the CPU."""
        classes = None if self.classes is None else self.classes.to(device, non_blocking=True)
        dense = tuple(maps.to(device, non_blocking=True).to(torch.int64) for maps in self.dense)
        return replace(self, classes=classes, dense=dense)

    def pin_memory(self) -> Target:
        """Copy classes and maps to page-locked memory."""
        classes = None if self.classes is None else self.classes.pin_memory()
        return replace(self, classes=classes, dense=tuple(maps.pin_memory() for maps in self.dense))


def collate_targets(kind: TargetKind, seen: Sequence[Sequence[TargetValue]]) -> Target:
    """Collate the targets of single images into those of a batch.

    Args:
        kind: the kind of all targets.
        seen: per image and view, the target as it appears in that view.

    Returns:
        The targets, on the CPU; maps keep their integer type if it is the same for all.
    """
    first = [of_views[0] for of_views in seen]
    if kind == "class":
        return Target(kind, classes=torch.tensor(first, dtype=torch.int64))
    if kind == "text":
        return Target(kind, texts=tuple(str(text) for text in first))
    views = list(zip(*seen, strict=True))
    if kind == "boxes":
        return Target(kind, boxes=tuple([value for value in view if isinstance(value, Boxes)] for view in views))
    return Target(kind, dense=tuple(_stack([value for value in view if isinstance(value, Tensor)]) for view in views))


def _stack(maps: list[Tensor]) -> Tensor:
    same = len({part.dtype for part in maps}) == 1
    return torch.stack(maps if same else [part.to(torch.int64) for part in maps])


def _check(kind: TargetKind, value: object, index: int) -> None:
    if kind == "class":
        right = isinstance(value, int) or (isinstance(value, Tensor) and value.ndim == 0 and _whole(value))
    elif kind == "dense":
        right = isinstance(value, Tensor) and value.ndim >= 1 and _whole(value)
    elif kind == "boxes":
        right = isinstance(value, Boxes) and value.boxes.shape == (len(value.labels), 4) and _whole(value.labels)
    else:
        right = isinstance(value, str)
    if not right:
        raise TypeError(f"target {index}: expected a target of kind {kind!r}, got {value!r}")


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() and not values.is_complex()
