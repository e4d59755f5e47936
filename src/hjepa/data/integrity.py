"""Check a data set: counts, sizes, types, classes, bad files, and duplicates across splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hjepa.data.build import build_noted, list_images
from hjepa.data.dataset import BadFile, EncodedPixels, ImageDataset, Split
from hjepa.data.image_sample import pixel_hash
from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.images.describe import conversions
from hjepa.errors import DataError

if TYPE_CHECKING:
    from hjepa.config import DataConfig


class Duplicate(NamedTuple):
    """Two images, one in train and one in test, with identical pixels."""

    train: int
    """Index in the training split."""
    test: int
    """Index in the test split."""


@dataclass
class SplitReport:
    """Contents of one split."""

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
    """Number of files by the conversion applied when decoding, most frequent first."""


@dataclass
class IntegrityReport:
    """Contents of a data set."""

    description: str
    """The data set in a few words."""
    channels: int
    """Channels of every image."""
    splits: dict[str, SplitReport]
    """``"train"``; ``"validation"`` if the data set defines it; ``"test"`` if there is one."""
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    """Images in both train and test, as identifiers (train, test)."""
    missing_test: str | None = None
    """Why there is no test split; None if there is one."""
    notes: list[str] = field(default_factory=list)
    """What was left out, renamed, or how an ambiguous layout was interpreted."""

    @property
    def bad_files(self) -> list[BadFile]:
        """Bad files of all splits, each once."""
        return list(dict.fromkeys(bad for split in self.splits.values() for bad in split.bad_files))


def duplicates(train: ImageDataset, test: ImageDataset) -> list[Duplicate]:
    """Find test images that are also in train, by a hash of size, type and decoded pixels.

    Returns:
        one pair for each such test image, with its first copy in train.
    """
    return _pairs(
        [(index, digest) for index, digest, _ in _digests(train)],
        [(index, digest) for index, digest, _ in _digests(test)],
    )


def check_dataset(data: DataConfig, seed: int = 0) -> IntegrityReport:
    """Read every image of every split once and report the contents.

    Args:
        data: the ``data`` section, including ``data.subset``.
        seed: seed of the run; draws the splits that the data set does not define.

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
    """Count the conversions that decoding applies to the files of a split, judging by their headers."""
    split: Split = dataset.split
    pixels = dataset.pixels
    if not isinstance(pixels, EncodedPixels):
        # The images are decoded already, so find their files again.
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
            continue  # already reported as a bad file
    return dict(counts.most_common())


def _pairs(train: list[tuple[int, bytes]], test: list[tuple[int, bytes]]) -> list[Duplicate]:
    # Reversed, so that the first of several equal training images is kept.
    first = {digest: index for index, digest in reversed(train)}
    return [Duplicate(first[digest], index) for index, digest in test if digest in first]


def _inspect(dataset: ImageDataset) -> tuple[SplitReport, list[tuple[int, bytes]]]:
    """The report of a split, and (index, hash) of each readable image."""
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
    """Index, hash, and (height, width, type) of every readable image."""
    for index in range(len(dataset)):
        try:
            image = dataset.pixels.read(index)
        except UnreadableImageError as error:
            dataset.note_bad(BadFile(dataset.identifiers[index], str(error)))
            continue
        kind = str(image.dtype).removeprefix("torch.")
        yield index, pixel_hash(image), (image.shape[1], image.shape[2], kind)
