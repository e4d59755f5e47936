"""One split of a data set, in hand: pixels by index, labels where there are some, and what could not be read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from hjepa.data.images.decode import Decoded, Reduction, UnreadableImageError, convert_channels, decode
from hjepa.data.targets import ListedTargets, Sample, Targets
from hjepa.errors import DataError

log = logging.getLogger("hjepa")

# One line per file up to here, then only a count: a log of a million lines helps nobody.
MAX_LOGGED = 20

# Fewer files of many images would say little about the whole set.
_FEW_SHARDS = 8

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Division:
    """How the images of a data set came to be divided."""

    drawn: bool = False
    """Whether train and test were divided by the seed."""
    own_validation: bool = False
    """Whether the data set has validation images of its own, beside train and test."""
    withheld: Tensor | None = None
    """bool [N], for the training split: images whose labels are withheld for validation. None where there are
    none."""

    def select(self, rows: Tensor) -> Division:
        """The division of some images."""
        return self if self.withheld is None else replace(self, withheld=self.withheld[rows])


class BadFile(NamedTuple):
    """A file that was found but could not be read."""

    path: str
    """As in `ImageDataset.identifiers`."""
    reason: str
    """Why, in a few words."""


class UnreadableShardError(OSError):
    """Nothing in a whole file of images can be read.

    Args:
        reason: why, in a few words.
        end: number of the first image behind the file.
    """

    def __init__(self, reason: str, *, end: int) -> None:
        super().__init__(None, reason)
        self.end = end


class UnreadableStretchError(UnreadableImageError):
    """An image that cannot be read, and neither can those that follow it.

    Args:
        reason: why, in a few words.
        length: how many from this one on, at least 1.
    """

    def __init__(self, reason: str, length: int) -> None:
        super().__init__(reason)
        self.length = length


@dataclass(frozen=True)
class Shards:
    """How the images of a data set lie in files of many."""

    numbers: np.ndarray
    """int64 [N]: the file of each image."""
    fetched: bool
    """Whether reading an image means fetching its file whole, so that it is cheap to read others from there."""

    def select(self, rows: np.ndarray) -> Shards:
        """The files of some images."""
        return Shards(self.numbers[rows], self.fetched)

    def first(self, order: np.ndarray, count: int) -> np.ndarray:
        """The first images of a random order, from few files where each has to be fetched.

        Args:
            order: a permutation of the images.
            count: how many.
        """
        if not self.fetched:
            return order[:count]
        numbers = self.numbers[order]
        # Files by their first appearance, and as many as hold enough images.
        _, places, sizes = np.unique(numbers, return_index=True, return_counts=True)
        turn = np.argsort(places)
        needed = max(_FEW_SHARDS, int(np.searchsorted(np.cumsum(sizes[turn]), count)) + 1)
        chosen = numbers[np.sort(places)[:needed]]
        return order[np.isin(numbers, chosen)][:count]


class _Lazy(Protocol):
    def choose(self, rows: np.ndarray) -> Sequence[str]: ...


def choose_names(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    """Some of a data set's identifiers, without making those that are made when asked for."""
    if hasattr(names, "choose"):
        return cast(_Lazy, names).choose(rows)
    return [names[row] for row in rows.tolist()]


class Blobs(Protocol):
    """Encoded files by number. Cheap to send to a worker process."""

    def __len__(self) -> int:
        """Number of files."""
        ...

    def load(self, index: int) -> bytes:
        """The bytes of one file. Raises `OSError` when it cannot be read."""
        ...


class MemoryPixels:
    """Decoded images in memory.

    Args:
        images: [N, C, h, w], or a list of [C, h, w] where sizes or types differ; uint8, uint16 or float32.
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
        """The images of some rows, in that order."""
        if isinstance(self.images, Tensor):
            return MemoryPixels(self.images[torch.as_tensor(rows, dtype=torch.int64)])
        return MemoryPixels([self.images[int(row)] for row in rows])


class EncodedPixels:
    """Encoded images, decoded anew on every read.

    Args:
        blobs: the encoded files.
        channels: channels that images are converted to; as stored when not given.
        rows: which files, in order; all when not given.
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
        """One decoded image in whatever memory order it comes, smaller where `decode` finds that this will do.

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
        """The images of some rows, in that order."""
        return EncodedPixels(self.blobs, self.channels, self.rows[torch.as_tensor(rows, dtype=torch.int64)])

    def with_channels(self, channels: int) -> EncodedPixels:
        """The same files, converted to ``channels`` channels."""
        return EncodedPixels(self.blobs, channels, self.rows)


Pixels = MemoryPixels | EncodedPixels


class ImageDataset:
    """One split of a data set.

    Attributes:
        name: name of the data set, ``data.dataset``.
        description: a few words for tables, for example ``"shapes v1, 32x32"``.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        labels: int64 [N], -1 where an image has none; None where no image has one.
        class_names: names in the order of labels.
        channels: channels of every image.
        identifiers: file path relative to the root, or for example ``"cifar10/train/123"``.
        bad_files: files found and left out, with reasons; see `build_dataset`. Files that turn out to be unreadable while workers
            decode them are added as they are met.
        bad_images: ``"skip"`` or ``"stop"``: what loaders do with such a file.
        shards: where images lie in files of many; they decide the order of training.
        division: how train, validation and test were divided.
        targets: what loaders hand out when they are asked for targets: what was given, else the labels, else None.

    Raises:
        ValueError: not as many identifiers, labels or targets as images.
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
            raise ValueError(f"{len(pixels)} images need as many identifiers, labels and targets")
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
        classes = "no labels" if self.class_names is None else f"{len(self.class_names)} classes"
        return (
            f"ImageDataset({self.description}, {self.split}: {len(self)} images, {self.channels} channels, {classes})"
        )

    @property
    def images(self) -> Tensor | None:
        """All images as one tensor [N, C, h, w], where they are decoded in memory and of one size and type."""
        if isinstance(self.pixels, MemoryPixels) and isinstance(self.pixels.images, Tensor):
            return self.pixels.images
        return None

    @property
    def decoded_bytes(self) -> int | None:
        """Bytes of the decoded images where they lie in memory, else None."""
        return self.pixels.nbytes if isinstance(self.pixels, MemoryPixels) else None

    @property
    def targets(self) -> Targets | None:
        """What is known about each image."""
        if self._targets is None and self.labels is not None:
            return ListedTargets("class", self.labels)
        return self._targets

    def sample(self, index: int) -> Sample:
        """One image in its native size and type, with its target. Raises as `read`."""
        pixels = self.read(index)
        targets = self.targets
        if targets is None:
            return Sample(pixels, None)
        with self._named(index):
            return Sample(pixels, targets.read(index % len(self)))

    def read(self, index: int) -> Tensor:
        """The pixels of one image in its native size and type.

        Returns:
            [channels, h, w]: uint8 (0 to 255), uint16 (0 to 65535) or float32 (0 to 1).

        Raises:
            IndexError: no such index.
            DataError: the file cannot be read.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        with self._named(index):
            return self.pixels.read(index % len(self))

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """What cannot be read is a `DataError` with the image's name."""
        try:
            yield
        except UnreadableImageError as error:
            raise DataError(
                f"{self.identifiers[index]}: {error}; repair or remove the file, or set data.bad_images=skip"
            ) from None

    def select(self, rows: Sequence[int] | Tensor) -> ImageDataset:
        """The images of some rows as a data set of its own, in that order."""
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
        """Up to ``count`` images of a random order; from few shards where each has to be fetched from the web.

        Args:
            order: a permutation of the indices.
            count: how many.
        """
        return order[:count] if self.shards is None else self.shards.first(order, count)

    def note_bad(self, bad: BadFile) -> None:
        """Count a file that a loader could not read; one warning each for the first few.

        Raises:
            DataError: the policy is ``stop``.
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
            log.warning("more files cannot be read; from here on they are skipped and only counted")


def log_bad_files(bad_files: Sequence[BadFile]) -> None:
    """One warning per skipped file, up to `MAX_LOGGED`, then a count."""
    for bad in bad_files[:MAX_LOGGED]:
        log.warning("skipped %s: %s", *bad)
    if len(bad_files) > MAX_LOGGED:
        log.warning("skipped %d more files that cannot be read", len(bad_files) - MAX_LOGGED)


def bad_files_error(bad_files: Sequence[BadFile]) -> DataError:
    """The one-line error for the policy ``stop``."""
    first = ", ".join(f"{bad.path} ({bad.reason})" for bad in bad_files[:3])
    more = f" and {len(bad_files) - 3} more" if len(bad_files) > 3 else ""
    noun = "file" if len(bad_files) == 1 else "files"
    return DataError(
        f"data.bad_images=stop: {len(bad_files)} {noun} cannot be read: {first}{more}; "
        "repair or remove them, or set data.bad_images=skip"
    )
