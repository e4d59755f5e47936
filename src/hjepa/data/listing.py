"""Listing of a data set before decoding, and its division into splits, classes and subsets."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import BadFile, Division, EncodedPixels, Pixels, Shards, choose_names
from hjepa.errors import DataError
from hjepa.runtime.random import Purpose, stream

MOST_VALIDATION = 5000
"""Most images that ``data.validation_fraction=auto`` withholds. With so many, two standard errors of an accuracy are at
most 1.4 percentage points."""


class Note(NamedTuple):
    """A message about a data set: what was left out, renamed, or how an ambiguous layout was interpreted."""

    text: str
    """One line."""
    level: int = logging.WARNING
    """Logging level: a warning if images or labels that the user may expect are not used."""


@dataclass(frozen=True)
class Listing:
    """Images that a source found for one split, or for the whole set if it defines no splits."""

    pixels: Pixels
    """In memory or encoded."""
    identifiers: Sequence[str]
    """One per image."""
    labels: Tensor | None = None
    """int64 [N], -1 for none."""
    class_names: tuple[str, ...] | None = None
    """In the order of labels."""
    whole: bool = False
    """Whether this is the whole set, not yet divided into train and test."""
    root: Path | None = None
    """Where it was found, for messages."""
    description: str | None = None
    """A few words for tables."""
    sample: EncodedPixels | None = None
    """Encoded images that determine the number of channels, the same for all splits: training images, or the whole
    set. None if images are decoded already."""
    subset_done: bool = False
    """Whether the source has already applied ``data.subset``."""
    shards: Shards | None = None
    """The shard of each image, if the data set has shards."""
    bad_files: tuple[BadFile, ...] = ()
    """Files that the source itself found damaged."""
    division: Division = field(default_factory=Division)
    """How train, validation and test are divided so far."""
    notes: tuple[Note, ...] = ()
    """Messages about the whole data set, the same for all splits."""

    def __len__(self) -> int:
        return len(self.identifiers)

    def select(self, rows: Tensor) -> Listing:
        """The images of the given rows (int64), in that order."""
        return replace(
            self,
            pixels=self.pixels.select(rows),
            identifiers=choose_names(self.identifiers, rows.numpy()),
            labels=None if self.labels is None else self.labels[rows],
            shards=None if self.shards is None else self.shards.select(rows.numpy()),
            division=self.division.select(rows),
        )


def held_out(labels: Tensor | None, count: int, fraction: float, seed: int) -> Tensor:
    """Draw the images that a seeded split holds out for testing: bool [count].

    Stratified: the fraction is taken of every class and rounded; unlabelled images count as one class. At least one
    image is held out and at least one remains.

    Args:
        labels: int64 [count], -1 for none; None if no image has a label.
        count: number of images.
        fraction: ``data.test_fraction``.
        seed: seed of the run.
    """
    groups = np.zeros(count, dtype=np.int64) if labels is None else labels.numpy()
    order = stream(Purpose.SPLIT, seed).permutation(count)
    test = np.zeros(count, dtype=bool)
    for group in np.unique(groups):
        members = order[groups[order] == group]
        test[members[: round(len(members) * fraction)]] = True
    if count > 1 and not test.any():
        test[order[0]] = True
    if count > 1 and test.all():
        test[order[-1]] = False
    return torch.from_numpy(test)


def withheld(labels: Tensor | None, count: int, fraction: float | Literal["auto"], seed: int) -> Tensor | None:
    """Draw the training images whose labels are withheld for validation: bool [count]; None for no image.

    If any image has a label, only labelled images count and are drawn, stratified: the same share of every class up to
    rounding, and never the last image of a class. Without labels, images are drawn uniformly.

    Args:
        labels: int64 [count], -1 for none; None if no image has a label.
        count: number of training images.
        fraction: ``data.validation_fraction``.
        seed: seed of the run.
    """
    groups = np.full(count, -1, dtype=np.int64) if labels is None else labels.numpy()
    order = stream(Purpose.VALIDATION, seed).permutation(count)
    if (groups >= 0).any():
        order = order[groups[order] >= 0]
    wanted = min(MOST_VALIDATION, len(order) // 10) if fraction == "auto" else round(fraction * len(order))
    if fraction == 0 or len(order) < 2:
        return None
    # Rank of each image within its class, scaled to 0..1: taking the lowest ranks takes the same share of every class.
    place = np.empty(len(order))
    for group in np.unique(groups[order]):
        members = np.flatnonzero(groups[order] == group)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        place[members[-1]] = np.inf
    first = np.argsort(place, kind="stable")[: max(1, wanted)]
    taken = np.zeros(count, dtype=bool)
    taken[order[first[np.isfinite(place[first])]]] = True
    return torch.from_numpy(taken) if taken.any() else None


def subset_rows(labels: Tensor | None, count: int, subset: int | float, seed: int) -> Tensor:
    """Draw the images of ``data.subset``: int64, ascending.

    If every image has a label, classes are balanced: counts differ by at most one until a class runs out. Otherwise the
    draw is uniform. With the same seed, a smaller subset is contained in a larger one.
    """
    wanted = subset_size(count, subset)
    order = stream(Purpose.SUBSET, seed).permutation(count)
    if labels is not None and bool((labels >= 0).all()):
        groups = labels.numpy()[order]
        turn = np.empty(count, dtype=np.int64)
        for group in np.unique(groups):
            members = groups == group
            turn[members] = np.arange(members.sum())
        order = order[np.argsort(turn, kind="stable")]
    return torch.from_numpy(np.sort(order[:wanted]))


def subset_size(count: int, subset: int | float) -> int:
    """Number of images that ``data.subset`` selects of ``count``: a fraction if below 1, else a number."""
    return min(count, max(1, round(subset * count)) if subset < 1 else int(subset))


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the class names of ``data.classes_file``, one per line; blank lines are ignored.

    Raises:
        DataError: the file is missing, not text, empty, or repeats a name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"data.classes_file: {path} does not exist; give a text file with one class per line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.classes_file: {path} cannot be read as text ({error}); give a text file with one class per line"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"data.classes_file: {path} is empty; give one class per line")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"data.classes_file: {path} lists {repeated[0]!r} more than once; list each class once")
    return tuple(names)


def restrict_classes(listing: Listing, path: Path) -> Listing:
    """Keep only the classes of ``data.classes_file``, numbered in its order.

    Raises:
        DataError: the data set has no classes, or none of that name; the message suggests the closest one.
    """
    names = read_classes(path)
    if listing.labels is None or listing.class_names is None:
        raise DataError(f"data.classes_file: the images of this data set have no classes; leave {path} out")
    old = {name: label for label, name in enumerate(listing.class_names)}
    for name in names:
        if name not in old:
            raise DataError(f"data.classes_file: {path}: unknown class {name!r}; {_nearest(name, old)}")
    new = torch.full((len(old) + 1,), -1, dtype=torch.int64)  # label -1 indexes the last entry
    new[torch.tensor([old[name] for name in names])] = torch.arange(len(names))
    labels = new[listing.labels]
    kept = replace(listing, labels=labels, class_names=names)
    return kept.select((labels >= 0).nonzero().flatten())


def _nearest(name: str, known: dict[str, int]) -> str:
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    first = ", ".join(list(known)[:10])
    return f"the classes are {first}{', ...' if len(known) > 10 else ''}"
