"""One split of a data set: pixels by index, labels if it has any, and the files that could not be read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hjepa.data.images.decode import Decoded, Reduction, UnreadableImageError, convert_channels, decode
from hjepa.data.targets import ListedTargets, Sample, Targets
from hjepa.data.wording import quantity
from hjepa.errors import DataError

log = logging.getLogger("hjepa")

# Bad files logged one by one; the rest is only counted.
MAX_LOGGED = 20

# Fewest shards to sample from: the images of fewer shards may not represent the whole set.
_FEW_SHARDS = 8

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Division:
    """How a data set is divided into splits."""

    drawn: bool = False
    """Whether train and test were drawn from the seed."""
    own_validation: bool = False
    """Whether the data set defines validation images besides train and test."""
    withheld: Tensor | None = None
    """bool [N], training split only: images whose labels are withheld for validation. None if there are none."""

    def select(self, rows: Tensor) -> Division:
        """The division of the given rows."""
        return self if self.withheld is None else replace(self, withheld=self.withheld[rows])


class BadFile(NamedTuple):
    """A file that exists but cannot be read."""

    path: str
    """As in `ImageDataset.identifiers`."""
    reason: str
    """Why, in a few words."""


class UnreadableShardError(OSError):
    """No image of a shard can be read.

    Args:
        reason: why, in a few words.
        end: index of the first image after the shard.
    """

    def __init__(self, reason: str, *, end: int) -> None:
        super().__init__(None, reason)
        self.end = end


class UnreadableStretchError(UnreadableImageError):
    """Several consecutive images that cannot be read.

    Args:
        reason: why, in a few words.
        length: number of images, counted from the one that was asked for; at least 1.
    """

    def __init__(self, reason: str, length: int) -> None:
        super().__init__(reason)
        self.length = length


@dataclass(frozen=True)
class Shards:
    """Which shard each image of a data set is in."""

    numbers: np.ndarray
    """int64 [N]: number of each image's shard."""
    fetched: bool
    """Whether shards are downloaded whole, so that further images of the same shard cost little."""

    def select(self, rows: np.ndarray) -> Shards:
        """The shards of the given rows."""
        return Shards(self.numbers[rows], self.fetched)

    def first(self, order: np.ndarray, count: int) -> np.ndarray:
        """The first images of a random order; if shards are downloaded, only images from few shards.

        Args:
            order: int64 [N], a permutation of the images.
            count: number of images.

        Returns:
            int64, up to ``count`` images.
        """
        if not self.fetched:
            return order[:count]
        numbers = self.numbers[order]
        # The shards in order of first appearance, as many as hold enough images.
        _, places, sizes = np.unique(numbers, return_index=True, return_counts=True)
        turn = np.argsort(places)
        needed = max(_FEW_SHARDS, int(np.searchsorted(np.cumsum(sizes[turn]), count)) + 1)
        chosen = numbers[np.sort(places)[:needed]]
        return order[np.isin(numbers, chosen)][:count]


class _Lazy(Protocol):
    def choose(self, rows: np.ndarray) -> Sequence[str]: ...


def choose_names(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """Identifiers of the given rows; a lazy sequence stays lazy."""
    if hasattr(names, "choose"):
        return cast(_Lazy, names).choose(rows)
    return [names[row] for row in rows.tolist()]


class Blobs(Protocol):
    """Encoded images by index. Must be cheap to pickle, as they are sent to worker processes."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def load(self, index: int) -> bytes:
        """The bytes of one encoded image. Raises `OSError` if they cannot be read."""
        ...


@runtime_checkable
class _Orderly(Protocol):
    def in_order(self) -> Blobs: ...


class MemoryPixels:
    """Decoded images in memory.

    Args:
        images: [N, C, h, w], or a list of [C, h, w] if sizes or types differ; uint8, uint16 or float32.
    """

    def __init__(self, images: Tensor | list[Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        images = [self.images] if isinstance(self.images, Tensor) else self.images
        return sum(image.numel() * image.element_size() for image in images)

    def read(self, index: int) -> Tensor:
        """One image, [C, h, w]."""
        return self.images[index]

    def select(self, rows: Sequence[int] | Tensor) -> MemoryPixels:
        """The images of the given rows, in that order."""
        if isinstance(self.images, Tensor):
            return MemoryPixels(self.images[torch.as_tensor(rows, dtype=torch.int64)])
        return MemoryPixels([self.images[int(row)] for row in rows])


class EncodedPixels:
    """Encoded images, decoded on every read.

    Args:
        blobs: the encoded images.
        channels: channels to convert to; as stored if None.
        rows: int64 [N], the images to use, in order; all if None.
    """

    def __init__(self, blobs: Blobs, channels: int | None = None, rows: Tensor | None = None) -> None:
        self.blobs = blobs
        self.channels = channels
        self.rows = torch.arange(len(blobs)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> bytes:
        """The encoded bytes of one image."""
        return self.blobs.load(int(self.rows[index]))

    def read(self, index: int) -> Tensor:
        """One decoded image, [C, h, w]. Raises `UnreadableImageError` with the reason."""
        decoded = decode(self._bytes(index))
        return decoded.pixels if self.channels is None else convert_channels(decoded, self.channels)

    def read_for_crop(self, index: int, reduction: Reduction | None) -> Decoded:
        """One decoded image for cropping, in any memory order, and reduced in size if `decode` supports it.

        Args:
            index: which image.
            reduction: returns the largest factor by which the image may be reduced; None for full size.

        Raises:
            UnreadableImageError: with the reason.
        """
        decoded = decode(self._bytes(index), planar=False, reduction=reduction)
        if self.channels is None:
            return decoded
        return decoded._replace(pixels=convert_channels(decoded, self.channels), alpha=False)

    def _bytes(self, index: int) -> bytes:
        try:
            return self.load(index)
        except FileNotFoundError:
            raise UnreadableImageError("missing") from None
        except UnreadableShardError as error:
            behind = np.flatnonzero(self.rows[index:].numpy() >= error.end)
            length = int(behind[0]) if len(behind) else len(self.rows) - index
            raise UnreadableStretchError(str(error.strerror), length) from None
        except OSError as error:
            raise UnreadableImageError(error.strerror or type(error).__name__) from None

    def select(self, rows: Sequence[int] | Tensor) -> EncodedPixels:
        """The images of the given rows, in that order."""
        return EncodedPixels(self.blobs, self.channels, self.rows[torch.as_tensor(rows, dtype=torch.int64)])

    def with_channels(self, channels: int) -> EncodedPixels:
        """The same images, converted to ``channels`` channels."""
        return EncodedPixels(self.blobs, channels, self.rows)

    def in_order(self) -> EncodedPixels:
        """The same images, to be read mostly in their order, for which some sources need less memory."""
        blobs = self.blobs.in_order() if isinstance(self.blobs, _Orderly) else self.blobs
        return EncodedPixels(blobs, self.channels, self.rows)


Pixels = MemoryPixels | EncodedPixels


class ImageDataset:
    """One split of a data set.

    Attributes:
        name: name of the data set, ``data.dataset``.
        description: a few words for tables, for example ``"shapes v1, 32x32"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        labels: int64 [N], -1 for an image without a label; None if no image has one.
        class_names: names in the order of labels.
        channels: channels of every image.
        identifiers: [N], path relative to the root, or for example ``"cifar10/train/123"``.
        bad_files: files left out, with reasons; see `build_dataset`. Files that workers cannot decode later are added.
        bad_images: ``"skip"`` or ``"stop"``: what loaders do with an unreadable file.
        shards: the shard of each image, if the data set has shards; determines the training order.
        division: how train, validation and test are divided.
        targets: the targets that loaders return: those given, else the labels, else None.

    Raises:
        ValueError: the numbers of identifiers, labels or targets differ from the number of images.
    """

    def __init__(
        self,
        pixels: Pixels,
        *,
        name: str,
        split: Split,
        channels: int,
        identifiers: Sequence[str],
        labels: Tensor | None = None,
        class_names: tuple[str, ...] | None = None,
        bad_files: list[BadFile] | None = None,
        bad_images: Literal["skip", "stop"] = "skip",
        description: str | None = None,
        shards: Shards | None = None,
        division: Division | None = None,
        targets: Targets | None = None,
    ) -> None:
        if any(part is not None and len(part) != len(pixels) for part in (identifiers, labels, targets)):
            raise ValueError(f"identifiers, labels and targets need one entry for each of the {len(pixels)} images")
        self.pixels = pixels
        self.name = name
        self.split = split
        self.channels = channels
        self.identifiers = identifiers
        self.labels = labels
        self.class_names = class_names
        self.bad_files = [] if bad_files is None else bad_files
        self.bad_images = bad_images
        self.description = name if description is None else description
        self.shards = shards
        self.division = Division() if division is None else division
        self._targets = targets
        self._known_bad = {bad.path for bad in self.bad_files}

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        classes = "no labels" if self.class_names is None else quantity(len(self.class_names), "class", "classes")
        return (
            f"ImageDataset({self.description}, {self.split}: {quantity(len(self), 'image')}, "
            f"{quantity(self.channels, 'channel')}, {classes})"
        )

    @property
    def images(self) -> Tensor | None:
        """All images as one tensor [N, C, h, w] if they are in memory and equal in size and type, else None."""
        if isinstance(self.pixels, MemoryPixels) and isinstance(self.pixels.images, Tensor):
            return self.pixels.images
        return None

    @property
    def decoded_bytes(self) -> int | None:
        """Bytes of the decoded images if they are in memory, else None."""
        return self.pixels.nbytes if isinstance(self.pixels, MemoryPixels) else None

    @property
    def targets(self) -> Targets | None:
        """The target of each image; None if there are none."""
        if self._targets is None and self.labels is not None:
            return ListedTargets("class", self.labels)
        return self._targets

    def sample(self, index: int) -> Sample:
        """One image in its stored size and type, with its target. Raises as `read`."""
        pixels = self.read(index)
        targets = self.targets
        if targets is None:
            return Sample(pixels, None)
        with self._named(index):
            return Sample(pixels, targets.read(index % len(self)))

    def read(self, index: int) -> Tensor:
        """The pixels of one image in its stored size and type.

        Returns:
            [channels, h, w]: uint8 (0 to 255), uint16 (0 to 65535) or float32 (0 to 1).

        Raises:
            IndexError: the index is out of range.
            DataError: the file cannot be read.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} images")
        with self._named(index):
            return self.pixels.read(index % len(self))

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Context that turns an `UnreadableImageError` into a `DataError` that names the image."""
        try:
            yield
        except UnreadableImageError as error:
            raise DataError(
                f"{self.identifiers[index]}: {error}; repair or remove the file, or set data.bad_images=skip"
            ) from None

    def select(self, rows: Sequence[int] | Tensor) -> ImageDataset:
        """A data set with the images of the given rows, in that order."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        return ImageDataset(
            self.pixels.select(rows),
            name=self.name,
            split=self.split,
            channels=self.channels,
            identifiers=choose_names(self.identifiers, rows.numpy()),
            labels=None if self.labels is None else self.labels[rows],
            class_names=self.class_names,
            bad_files=list(self.bad_files),
            bad_images=self.bad_images,
            description=self.description,
            shards=None if self.shards is None else self.shards.select(rows.numpy()),
            division=self.division.select(rows),
            targets=None if self._targets is None else self._targets.select(rows),
        )

    def first(self, order: np.ndarray, count: int) -> np.ndarray:
        """The first images of a random order; if shards are downloaded, only images from few shards.

        Args:
            order: int64 [N], a permutation of the indices.
            count: number of images.

        Returns:
            int64, up to ``count`` indices.
        """
        return order[:count] if self.shards is None else self.shards.first(order, count)

    def note_bad(self, bad: BadFile) -> None:
        """Record a file that a loader could not read, with a warning for each of the first `MAX_LOGGED`.

        Raises:
            DataError: `bad_images` is ``"stop"``.
        """
        if self.bad_images == "stop":
            raise bad_files_error([bad])
        if bad.path in self._known_bad:
            return
        self._known_bad.add(bad.path)
        self.bad_files.append(bad)
        if len(self.bad_files) <= MAX_LOGGED:
            log.warning("skipped %s: %s", *bad)
        elif len(self.bad_files) == MAX_LOGGED + 1:
            log.warning("more files cannot be read; skipping them without further messages")


def log_bad_files(bad_files: Sequence[BadFile]) -> None:
    """Log a warning for each skipped file, up to `MAX_LOGGED`, then the number of the rest."""
    for bad in bad_files[:MAX_LOGGED]:
        log.warning("skipped %s: %s", *bad)
    if len(bad_files) > MAX_LOGGED:
        log.warning("skipped %s that cannot be read", quantity(len(bad_files) - MAX_LOGGED, "more file"))


def bad_files_error(bad_files: Sequence[BadFile]) -> DataError:
    """The error for bad files under ``data.bad_images=stop``, in one line."""
    first = ", ".join(f"{bad.path} ({bad.reason})" for bad in bad_files[:3])
    more = f" and {len(bad_files) - 3} more" if len(bad_files) > 3 else ""
    return DataError(
        f"data.bad_images=stop: {quantity(len(bad_files), 'file')} cannot be read: {first}{more}; "
        "repair or remove them, or set data.bad_images=skip"
    )
