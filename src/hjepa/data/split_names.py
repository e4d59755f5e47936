"""Names of splits and the use of each split; the same for folders, Parquet files and shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

TRAIN_WORDS = ("train", "training")
"""Words for the training split."""
VALIDATION_WORDS = ("val", "valid", "validation", "dev", "eval")
"""Words for the validation split; it becomes the test split if there is no other."""
TEST_WORDS = ("test", "testing", *VALIDATION_WORDS)
"""Words for splits that may become the test split, in order of preference."""

EMPTY, UNLABELLED, LABELLED = range(3)
"""Suitability of a split for testing or validation, in ascending order."""

_WORDS = "|".join(sorted((*TRAIN_WORDS, *TEST_WORDS), key=len, reverse=True))
# `train2017`, `test_set`, `training-images`; but not `train-station`, which may be a class.
_FOLDER = re.compile(rf"({_WORDS})(?:[-_. ]*(?:set|split|data|dataset|images?|imgs?|pictures|photos|\d+))*")


def split_of_folder(name: str) -> str | None:
    """The split word in a folder's name, such as ``train`` in ``train2017``; None if it names no split."""
    found = _FOLDER.fullmatch(name.lower())
    return None if found is None else found[1]


def split_of_path(path: str) -> str | None:
    """The split word in a file's name, or else in the name of the nearest parent folder; None if there is none.

    ``default/test/0000.parquet`` and ``data/my-test.parquet`` give ``test``. A name with words for both train and test
    is ignored.
    """
    for part in reversed(PurePosixPath(path).parts):
        word = _word(part)
        if word is not None:
            return word
    return None


def folder_of_splits(path: str) -> str:
    """The folder above a file's split folder: ``default`` for ``default/test/part/0000.parquet``."""
    parents = PurePosixPath(path).parts[:-1]
    named = [number for number, part in enumerate(parents) if _word(part) is not None]
    return "/".join(parents[: named[0]] if named else parents)


def is_train(word: str | None) -> bool:
    """Whether a word names the training split."""
    return word in TRAIN_WORDS


def choose_splits(words: Sequence[str], worth: Sequence[int], train: int = UNLABELLED) -> tuple[int | None, int | None]:
    """Choose the test split and the validation split among the splits besides train.

    * Test is the first split with labels, else the first with images.
    * Validation is the first split named for validation with labels, else with images. There is none if test itself is
      named for validation, or if the split has no labels although train has; validation images are then drawn from
      train.

    Args:
        words: split names, of `TEST_WORDS`, in order of preference.
        worth: for each split `EMPTY`, `UNLABELLED` or `LABELLED`.
        train: the same for the training split.

    Returns:
        indices of test and validation in ``words``, each None if there is none.
    """
    places = range(len(words))
    test = max(places, key=worth.__getitem__, default=None)
    if test is None or words[test] in VALIDATION_WORDS:
        return test, None
    named = [place for place in places if words[place] in VALIDATION_WORDS]
    validation = max(named, key=worth.__getitem__, default=None)
    enough = validation is not None and worth[validation] >= max(train, UNLABELLED)
    return test, validation if enough else None


def _word(name: str) -> str | None:
    found = [word for word in re.split(r"[^a-z]+", name.lower()) if word in TRAIN_WORDS or word in TEST_WORDS]
    return found[0] if len({is_train(word) for word in found}) == 1 else None
