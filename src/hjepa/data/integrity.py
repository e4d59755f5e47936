"""What a data set really holds: counts, sizes, types, classes, bad files, and pictures in both splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hjepa.data.build import build_noted, list_images
from hjepa.data.dataset import BadFile, EncodedPixels, ImageDataset, Split
from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.images.describe import conversions
from hjepa.errors import DataError

if TYPE_CHECKING:
    from hjepa.config import DataConfig


class Duplicate(NamedTuple):
    """One picture that stands in both splits, pixel by pixel."""

    train: int
    """Index in the training split."""
    test: int
    """Index in the test split."""


@dataclass
class SplitReport:
    """What one split holds."""

    images: int
    """Readable images."""
    sizes: dict[tuple[int, int], int]
    """Images by (height, width), most frequent first."""
    types: dict[str, int]
    """Images by pixel type: uint8, uint16, float32."""
    classes: dict[str, int]
    """Images by class name, in the order of labels; empty without labels."""
    unlabelled: int
    """Images without a label."""
    bad_files: list[BadFile]
    """Files left out."""
    converted: dict[str, int] = field(default_factory=dict)
    """Files by what is done to them beside decoding, most frequent first."""


@dataclass
class IntegrityReport:
    """What a data set holds."""

    description: str
    """The data set in a few words."""
    channels: int
    """Channels of every image."""
    splits: dict[str, SplitReport]
    """``"train"``, ``"validation"`` where the set has validation images of its own, and, where there is one, ``"test"``."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Pictures in both splits: identifiers in train and test."""
    missing_test: str | None = None
    """Why there is no test split, where there is none."""
    notes: list[str] = field(default_factory=list)
    """What was left out, renamed or understood in a certain way."""

    @property
    def bad_files(self) -> list[BadFile]:
        """Bad files of all splits, each once."""
        return list(dict.fromkeys(bad for split in self.splits.values() for bad in split.bad_files))


def duplicates(train: ImageDataset, test: ImageDataset) -> list[Duplicate]:
    """Every test picture that is also in train, by a hash of size, type and decoded pixels.

    Pictures repeated within one split count once: each test image is paired with its first twin in train.
    """
    return _pairs(
        [(index, digest) for index, digest, _ in _digests(train)],
        [(index, digest) for index, digest, _ in _digests(test)],
    )


def check_dataset(data: DataConfig, seed: int = 0) -> IntegrityReport:
    """Read every image of every split once and say what is there.

    Args:
        data: the ``data`` section. ``data.subset`` is respected.
        seed: of the run; draws the split where the set has none.

    Raises:
        DataError: as `hjepa.data.build_dataset`; under ``data.bad_images=stop`` also for the first bad file.
    """
    train, notes = build_noted(data, "train", seed=seed)
    report = IntegrityReport(train.description, train.channels, {}, notes=[note.text for note in notes])
    report.splits["train"], train_rows = _inspect(train)
    report.splits["train"].converted = _conversions(data, train)
    if train.division.own_validation:
        _check_validation(data, seed, report)
    try:
        test, _ = build_noted(data, "test", seed=seed)
    except DataError as error:
        if data.bad_images == "stop":
            raise
        report.missing_test = str(error)
        return report
    report.splits["test"], test_rows = _inspect(test)
    report.splits["test"].converted = _conversions(data, test)
    report.duplicates = [
        (train.identifiers[pair.train], test.identifiers[pair.test]) for pair in _pairs(train_rows, test_rows)
    ]
    return report


def _check_validation(data: DataConfig, seed: int, report: IntegrityReport) -> None:
    try:
        validation, _ = build_noted(data, "validation", seed=seed)
    except DataError as error:
        if data.bad_images == "stop":
            raise
        report.notes.append(str(error))
        return
    report.splits["validation"], _ = _inspect(validation)
    report.splits["validation"].converted = _conversions(data, validation)


def _conversions(data: DataConfig, dataset: ImageDataset) -> dict[str, int]:
    """What is done to the files of a split, by the heads of the files."""
    split: Split = dataset.split
    pixels = dataset.pixels
    if not isinstance(pixels, EncodedPixels):
        # Decoded already: the files are looked up once more.
        listing = list_images(data, split)
        if not isinstance(listing.pixels, EncodedPixels):
            return {}
        wanted = set(dataset.identifiers)
        rows = [row for row, name in enumerate(listing.identifiers) if name in wanted]
        pixels = listing.pixels.select(rows)
    counts: Counter[str] = Counter()
    for index in range(len(pixels)):
        try:
            counts.update(conversions(pixels.load(index)))
        except OSError:
            continue  # a bad file, and reported as one
    return dict(counts.most_common())


def _pairs(train: list[tuple[int, bytes]], test: list[tuple[int, bytes]]) -> list[Duplicate]:
    # Reversed, so that the first of several equal training images stays in the table.
    first = {digest: index for index, digest in reversed(train)}
    return [Duplicate(first[digest], index) for index, digest in test if digest in first]


def _inspect(dataset: ImageDataset) -> tuple[SplitReport, list[tuple[int, bytes]]]:
    """The report of a split, and index and hash of its images."""
    sizes: Counter[tuple[int, int]] = Counter()
    types: Counter[str] = Counter()
    rows: list[tuple[int, bytes]] = []
    for index, digest, (height, width, kind) in _digests(dataset):
        sizes[height, width] += 1
        types[kind] += 1
        rows.append((index, digest))
    classes: dict[str, int] = {}
    unlabelled = len(rows)
    if dataset.labels is not None and dataset.class_names is not None:
        counts = Counter(dataset.labels[[index for index, _ in rows]].tolist())
        classes = {name: counts[label] for label, name in enumerate(dataset.class_names)}
        unlabelled = counts[-1]
    report = SplitReport(len(rows), dict(sizes.most_common()), dict(types), classes, unlabelled, dataset.bad_files)
    return report, rows


def _digests(dataset: ImageDataset) -> Iterator[tuple[int, bytes, tuple[int, int, str]]]:
    """Index, hash, and (height, width, type) of every image that can be read."""
    for index in range(len(dataset)):
        try:
            image = dataset.pixels.read(index)
        except UnreadableImageError as error:
            dataset.note_bad(BadFile(dataset.identifiers[index], str(error)))
            continue
        kind = str(image.dtype).removeprefix("torch.")
        digest = hashlib.blake2b(f"{kind}{tuple(image.shape)}".encode(), digest_size=16)
        digest.update(image.contiguous().numpy().data)
        yield index, digest.digest(), (image.shape[1], image.shape[2], kind)
