"""What a source finds before anything is decoded, and how it is divided: splits, classes, subsets."""

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
"""Images that ``data.validation_fraction=auto`` withholds at most: two standard errors of an accuracy are then 1.4 points
at the most."""


class Note(NamedTuple):
    """Something about a set that its user should hear: what was left out, renamed or understood in a certain way."""

    text: str
    """One line."""
    level: int = logging.WARNING
    """Of the log: a warning where pictures or labels are concerned that somebody may miss."""


@dataclass(frozen=True)
class Listing:
    """Images that a source found for one split, or for the whole set where it has none."""

    pixels: Pixels
    """In memory or encoded."""
    identifiers: Sequence[str]
    """One per image."""
    labels: Tensor | None = None
    """int64 [N], -1 for none."""
    class_names: tuple[str, ...] | None = None
    """In the order of labels."""
    whole: bool = False
    """Whether this is the whole set, still to be divided into train and test."""
    root: Path | None = None
    """Where it was found, for messages."""
    description: str | None = None
    """A few words for tables."""
    sample: EncodedPixels | None = None
    """Encoded images that decide the number of channels, the same for all splits: training images, or the whole
    set. None where images are decoded already."""
    subset_done: bool = False
    """Whether the source has applied ``data.subset`` itself."""
    shards: Shards | None = None
    """Where images lie in files of many."""
    bad_files: tuple[BadFile, ...] = ()
    """What the source itself found damaged."""
    division: Division = field(default_factory=Division)
    """How train, validation and test were divided, as far as that has been done."""
    notes: tuple[Note, ...] = ()
    """About the set as a whole, the same for all splits."""

    def __len__(self) -> int:
        return len(self.identifiers)

    def select(self, rows: Tensor) -> Listing:
        """Some images, in the order of ``rows`` (int64)."""
        return replace(
            self,
            pixels=self.pixels.select(rows),
            identifiers=choose_names(self.identifiers, rows.numpy()),
            labels=None if self.labels is None else self.labels[rows],
            shards=None if self.shards is None else self.shards.select(rows.numpy()),
            division=self.division.select(rows),
        )


def held_out(labels: Tensor | None, count: int, fraction: float, seed: int) -> Tensor:
    """Which images a seeded split holds out: bool [count].

    The share is taken of every class (unlabelled images count as one), rounded; at least one image in all, never all.
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
    """Which training images have their labels withheld for validation: bool [count]; None for none at all.

    Where some images have labels, only those count and only those are drawn: the same share of every class, as nearly as
    whole images allow, and never a class's last one. Without labels any images are drawn.

    Args:
        labels: int64 [count], -1 for none.
        count: training images.
        fraction: ``data.validation_fraction``.
        seed: of the run.
    """
    groups = np.full(count, -1, dtype=np.int64) if labels is None else labels.numpy()
    order = stream(Purpose.VALIDATION, seed).permutation(count)
    if (groups >= 0).any():
        order = order[groups[order] >= 0]
    wanted = min(MOST_VALIDATION, len(order) // 10) if fraction == "auto" else round(fraction * len(order))
    if fraction == 0 or len(order) < 2:
        return None
    # Where each image stands among those of its class, 0 to 1: the first places of all classes are taken together.
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
    """The images of ``data.subset``: int64, ascending.

    Balanced over classes (counts differ by at most one while every class lasts) where every image has a label,
    otherwise uniform. A smaller subset of the same seed lies inside a larger one.
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
    """How many of ``count`` images ``data.subset`` means: a share below 1, or a number."""
    return min(count, max(1, round(subset * count)) if subset < 1 else int(subset))


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names of ``data.classes_file``, one per line; blank lines do not count.

    Raises:
        DataError: no such file, not text, empty, or a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"data.classes_file: {path} does not exist; give a text file with one class per line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.classes_file: {path} cannot be read as text ({error}); one class per line is needed"
        ) from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"data.classes_file: {path} is empty; give one class per line")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"data.classes_file: {path} names {repeated[0]!r} more than once; give each class once")
    return tuple(names)


def restrict_classes(listing: Listing, path: Path) -> Listing:
    """Keep the classes of ``data.classes_file`` and number them in its order; images of no class are left out.

    Raises:
        DataError: the set has no classes, or not one of that name; the message gives the nearest.
    """
    names = read_classes(path)
    if listing.labels is None or listing.class_names is None:
        raise DataError(f"data.classes_file: the images have no classes to choose from; leave {path} out")
    old = {name: label for label, name in enumerate(listing.class_names)}
    for name in names:
        if name not in old:
            raise DataError(f"data.classes_file: {path} names {name!r}, which is no class here; {_nearest(name, old)}")
    new = torch.full((len(old) + 1,), -1, dtype=torch.int64)  # the last entry answers for label -1
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
