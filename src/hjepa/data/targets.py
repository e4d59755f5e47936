"""What may be known about an image beside its pixels: a class, a dense map, boxes or a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

TargetKind = Literal["class", "dense", "boxes", "text"]


class Boxes(NamedTuple):
    """Objects in an image or in a view of it."""

    boxes: Tensor
    """float32 [M, 4]: top, left, height, width in pixels."""
    labels: Tensor
    """int64 [M]."""


TargetValue = int | Tensor | Boxes | str
"""The target of one image: a class, an integer map [*space] of the image's size, its objects, or a text."""


class Sample(NamedTuple):
    """One item of a data set as it is stored."""

    pixels: Tensor
    """[C, *space]; [C, h, w] for images: uint8 (0 to 255), uint16 (0 to 65535) or float32 (0 to 1)."""
    target: TargetValue | None
    """None where the set has none."""


class Targets(Protocol):
    """The targets of a data set, by index. Cheap to send to a worker process."""

    @property
    def kind(self) -> TargetKind:
        """The same for all."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, index: int) -> TargetValue:
        """The target of one image. Raises `UnreadableImageError` with the reason where it cannot be read."""
        ...

    def select(self, rows: Tensor) -> Targets:
        """Those of some images (int64), in that order."""
        ...


class ListedTargets:
    """Targets in memory.

    Args:
        kind: what they are.
        values: one per image: classes (an int64 tensor or ints, -1 for none), integer maps of the images' sizes (one
            tensor [N, *space] or a list of [*space]), `Boxes`, or texts.

    Raises:
        TypeError: a value is not of that kind.
    """

    def __init__(self, kind: TargetKind, values: Tensor | Sequence[TargetValue]) -> None:
        self._kind = kind
        self._values = values
        for index in range(len(values) if isinstance(values, list | tuple) else min(1, len(values))):
            _check(kind, values[index], index)

    @property
    def kind(self) -> TargetKind:
        """The same for all."""
        return self._kind

    def __len__(self) -> int:
        return len(self._values)

    def read(self, index: int) -> TargetValue:
        """The target of one image."""
        value = self._values[index]
        return int(value) if self._kind == "class" and isinstance(value, Tensor) else value

    def select(self, rows: Tensor) -> ListedTargets:
        """Those of some images (int64), in that order."""
        if isinstance(self._values, Tensor):
            return ListedTargets(self._kind, self._values[rows])
        return ListedTargets(self._kind, [self._values[row] for row in rows.tolist()])


@dataclass(frozen=True)
class Target:
    """The targets of a batch; one of the four fields is filled."""

    kind: TargetKind
    classes: Tensor | None = None
    """int64 [B], on the device; -1 for none."""
    dense: tuple[Tensor, ...] = ()
    """Of each view, int64 [B, *size], on the device: cut and mirrored as the view was."""
    boxes: tuple[list[Boxes], ...] = ()
    """Of each view, one `Boxes` per image in pixels of the view, on the CPU."""
    texts: tuple[str, ...] = ()
    """One per image."""

    def to(self, device: torch.device) -> Target:
        """Classes and maps as int64 on a device; boxes and texts stay where they are."""
        classes = None if self.classes is None else self.classes.to(device, non_blocking=True)
        dense = tuple(maps.to(device, non_blocking=True).to(torch.int64) for maps in self.dense)
        return replace(self, classes=classes, dense=dense)

    def pin_memory(self) -> Target:
        """Classes and maps in page-locked memory."""
        classes = None if self.classes is None else self.classes.pin_memory()
        return replace(self, classes=classes, dense=tuple(maps.pin_memory() for maps in self.dense))


def collate_targets(kind: TargetKind, seen: Sequence[Sequence[TargetValue]]) -> Target:
    """The targets of a batch from those of its images.

    Args:
        kind: what they are.
        seen: of each image, the target as each view shows it.

    Returns:
        On the CPU; maps of one integer type, not yet int64.
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
        raise TypeError(f"target {index} is no {kind} target: {value!r}")


def _whole(values: Tensor) -> bool:
    return not values.is_floating_point() and not values.is_complex()
