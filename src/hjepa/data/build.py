"""Build a data set from the ``data`` section: source, split, classes, subset, channels, integrity."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hjepa.data.dataset import (
    EncodedPixels,
    ImageDataset,
    MemoryPixels,
    Split,
    bad_files_error,
    log_bad_files,
)
from hjepa.data.listing import Listing, Note, held_out, restrict_classes, subset_rows, withheld
from hjepa.data.loading.first_read import Probe, convert_memory, scan, settle, worth_scanning
from hjepa.data.sources import cifar, digits, folder, imagenet, parquet, shapes, stl10, webdataset
from hjepa.errors import DataError, EmptySplitError, UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig

log = logging.getLogger("hjepa")

SOURCES: dict[str, Callable[[DataConfig, Split, Path], Listing]] = {
    "shapes": shapes.find,
    "digits": digits.find,
    "cifar10": cifar.find,
    "cifar100": cifar.find,
    "stl10": stl10.find,
    "imagenet": imagenet.find,
    "imagenet100": imagenet.find,
    "folder": folder.find,
    "parquet": parquet.find,
    "webdataset": webdataset.find,
}

_EXCLUDING = ("folder", "imagenet", "imagenet100", "parquet")


def build_dataset(data: DataConfig, split: Split = "train", *, seed: int = 0) -> ImageDataset:
    """Find and check one split of a data set, and decode it into memory if it fits.

    Args:
        data: the ``data`` section.
        split: ``"train"``, ``"validation"`` or ``"test"``. ``"train"`` holds all images for pretraining, including the
            validation images if those are drawn from it (marked in `ImageDataset.division`). ``data.subset`` applies
            to train and to the validation images drawn from it. `hjepa.data.splits.Splits` holds all three splits.
        seed: ``seed`` of the run; draws the subset and any split that the data set does not define.

    Returns:
        The split. Images of up to 2 GiB decoded are kept in memory, unless ``data.storage=workers``. Sets of up to
        50,000 files are decoded once, and every bad file is listed in ``bad_files``. If test is drawn from the seed and
        ``data.subset`` is not set, the training split also lists the bad files of test.

    Raises:
        DataError: no images, no readable image, a bad file under ``data.bad_images=stop``, labels or classes that do
            not match, or a failed download.
        UserError: keys of ``data`` that conflict.
    """
    dataset, notes = build_noted(data, split, seed=seed)
    # Notes concern the whole set, and every command that uses it builds the training split: log them only there.
    for note in notes if split == "train" else ():
        log.log(note.level, "%s: %s", data.dataset, note.text)
    return dataset


def build_noted(data: DataConfig, split: Split, *, seed: int = 0) -> tuple[ImageDataset, tuple[Note, ...]]:
    """As `build_dataset`, but return the notes about the data set instead of logging them."""
    listing = list_images(data, split)
    # Validation images drawn from train are a part of it, so every step below that selects train applies to them too.
    training = split == "train" or (split == "validation" and not listing.division.own_validation)
    other = None
    if listing.whole:
        test = held_out(listing.labels, len(listing), data.test_fraction, seed)
        # The training split also scans the held-out test files, so that all bad files are known before the first step.
        if split == "train" and data.subset is None and worth_scanning(len(listing)):
            other = listing.select(test.nonzero().flatten())
        listing = listing.select((test == (split == "test")).nonzero().flatten())
        listing = replace(listing, division=replace(listing.division, drawn=True))
    if data.classes_file is not None:
        listing = restrict_classes(listing, data.classes_file)
    if training and data.subset is not None and not listing.subset_done:
        listing = listing.select(subset_rows(listing.labels, len(listing), data.subset, seed))
    if training and not listing.division.own_validation:
        listing = _divide(listing, data, split, seed)
    if not len(listing):
        damage = "".join(f" ({bad.path}: {bad.reason})" for bad in listing.bad_files[:1])
        raise EmptySplitError(
            f"data.dataset={data.dataset}: no images for the {split} split{_at(listing)}{damage}; "
            f"add images, or change data.data_path, data.{'test' if split != 'validation' else split}_fraction or "
            "data.classes_file"
        )
    return _read(listing, other, data, split), listing.notes


def build_whole(data: DataConfig) -> list[ImageDataset]:
    """All images of a data set, as one set for each split that it defines itself; nothing is drawn or withheld.

    Images are stored as by `build_dataset`, except that files too many for memory are not decoded in advance: each is
    read once, when it is used.

    Args:
        data: the ``data`` section; ``data.subset`` and the fractions of splits have no effect.

    Returns:
        the training images and, if the data set has them, its validation and test images. Identifiers of files are paths
        relative to ``data.data_path``.

    Raises:
        DataError, UserError: as `build_dataset`.
    """
    listing = list_images(data, "train")
    found: dict[Split, Listing] = {"train": listing}
    if not listing.whole:
        if listing.division.own_validation:
            found["validation"] = list_images(data, "validation")
        found["test"] = list_images(data, "test")
    for note in listing.notes:
        log.log(note.level, "%s: %s", data.dataset, note.text)
    parts = []
    for split, part in found.items():
        if data.classes_file is not None:
            part = restrict_classes(part, data.classes_file)
        if isinstance(part.pixels, EncodedPixels):
            part = replace(_named_from(part, data.data_path), pixels=part.pixels.in_order())
        if len(part):
            parts.append(_read(part, None, data, split, check=False))
    if not parts:
        raise EmptySplitError(f"data.dataset={data.dataset}: no images{_at(listing)}; check data.data_path")
    return parts


def _named_from(listing: Listing, path: Path | None) -> Listing:
    """The listing with file names relative to ``path``, also if all images are in a folder further down."""
    blobs = listing.pixels.blobs if isinstance(listing.pixels, EncodedPixels) else None
    if not isinstance(blobs, folder.FileBlobs) or path is None or blobs.root == path:
        return listing
    prefix = blobs.root.relative_to(path).as_posix()
    return replace(listing, identifiers=[f"{prefix}/{name}" for name in listing.identifiers])


def list_images(data: DataConfig, split: Split) -> Listing:
    """List the images of one split without decoding them; the whole set if it defines no splits.

    For ``"validation"``: the data set's own validation images, or else the training images they will be drawn from.

    Raises:
        DataError, UserError: as `build_dataset`.
    """
    _check_keys(data)
    path = data.data_path if data.data_path is not None else Path("data") / data.dataset
    find = SOURCES[data.dataset]
    listing = find(data, "test" if split == "test" else "train", path)
    if split == "validation" and listing.division.own_validation:
        return find(data, split, path)
    return listing


def _check_keys(data: DataConfig) -> None:
    for key, value, sets in (("labels_file", data.labels_file, ("folder",)), ("exclude", data.exclude, _EXCLUDING)):
        if value and data.dataset not in sets:
            raise UserError(
                f"data.{key}: supported only for data.dataset={', '.join(sets)}, not for {data.dataset}; leave it out"
            )


def _divide(listing: Listing, data: DataConfig, split: Split, seed: int) -> Listing:
    """The training split with its validation images marked, or the validation images alone.

    The draw happens before any file is read, so a damaged file does not change which other images are drawn.
    """
    validation = withheld(listing.labels, len(listing), data.validation_fraction, seed)
    if split == "validation":
        none = torch.zeros(0, dtype=torch.int64)
        return listing.select(none if validation is None else validation.nonzero().flatten())
    return replace(listing, division=replace(listing.division, withheld=validation))


def _read(
    listing: Listing, other: Listing | None, data: DataConfig, split: Split, *, check: bool = True
) -> ImageDataset:
    bad = list(listing.bad_files)
    pixels = listing.pixels
    if isinstance(pixels, MemoryPixels):
        channels = data.channels if data.channels is not None else pixels.read(0).shape[0]
        pixels = convert_memory(pixels, channels, data.dataset)
    else:
        if data.channels is not None:
            channels = data.channels
        else:
            channels = Probe(pixels if listing.sample is None else listing.sample).channels()
        fetched = listing.shards is not None and listing.shards.fetched
        sampled = fetched or not check
        probe = Probe(listing.sample) if sampled and listing.sample is not None else None
        pixels, kept, unreadable = settle(pixels, channels, listing.identifiers, data.storage, probe, check=check)
        bad += unreadable
        if other is not None and isinstance(other.pixels, EncodedPixels):
            bad += scan(other.pixels, channels, other.identifiers)
        if bad and data.bad_images == "stop":
            raise bad_files_error(bad)
        log_bad_files(bad)
        if not kept:
            raise DataError(
                f"data.dataset={data.dataset}: none of {len(bad)} files{_at(listing)} can be read as an image, "
                f"for example {bad[0].path} ({bad[0].reason}); check data.data_path"
            )
        rest = listing if len(kept) == len(listing) else listing.select(torch.tensor(kept))
        listing = replace(rest, pixels=pixels)
    labels = listing.labels
    if labels is not None and bool((labels < 0).all()):
        labels = None
    return ImageDataset(
        pixels,
        name=data.dataset,
        split=split,
        channels=channels,
        identifiers=listing.identifiers,
        labels=labels,
        class_names=listing.class_names if labels is not None else None,
        bad_files=bad,
        bad_images=data.bad_images,
        description=listing.description,
        shards=listing.shards,
        division=listing.division,
    )


def _at(listing: Listing) -> str:
    return f" at {listing.root}" if listing.root is not None else ""
