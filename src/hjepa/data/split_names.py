"""Which words name a split and what each split serves for, the same for folders, Parquet files and shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

TRAIN_WORDS = ("train", "training")
"""Words for the training split."""
VALIDATION_WORDS = ("val", "valid", "validation", "dev", "eval")
"""Words for validation images where there are test images beside them, and for what is tested on where there are none."""
TEST_WORDS = ("test", "testing", *VALIDATION_WORDS)
"""Words for the split that is tested on, in the order of preference."""

EMPTY, UNLABELLED, LABELLED = range(3)
"""What a split is worth for testing or validation."""

_WORDS = "|".join(sorted((*TRAIN_WORDS, *TEST_WORDS), key=len, reverse=True))
# `train2017`, `test_set`, `training-images`; but not `train-station`, which may be a class.
_FOLDER = re.compile(rf"({_WORDS})(?:[-_. ]*(?:set|split|data|dataset|images?|imgs?|pictures|photos|\d+))*")


def split_of_folder(name: str) -> str | None:
    """The word for a split that a folder is named by, if it is: ``train`` of ``train2017``."""
    found = _FOLDER.fullmatch(name.lower())
    return None if found is None else found[1]


def split_of_path(path: str) -> str | None:
    """The word for a split that stands in a file's name, or else in the name of the nearest folder above it.

    ``default/test/0000.parquet`` and ``data/my-test.parquet`` give ``test``. A name with words for both says nothing.
    """
    for part in reversed(PurePosixPath(path).parts):
        word = _word(part)
        if word is not None:
            return word
    return None


def folder_of_splits(path: str) -> str:
    """The folder that holds the splits of which a file is a part: ``default`` for ``default/test/part/0000.parquet``."""
    parents = PurePosixPath(path).parts[:-1]
    named = [number for number, part in enumerate(parents) if _word(part) is not None]
    return "/".join(parents[: named[0]] if named else parents)


def is_train(word: str | None) -> bool:
    """Whether a word means the training split."""
    return word in TRAIN_WORDS


def choose_splits(words: Sequence[str], worth: Sequence[int], train: int = UNLABELLED) -> tuple[int | None, int | None]:
    """Which of several splits beside train is tested on, and which holds the validation images.

    * Tested on is the first one with labels, else the first one with images.
    * Validation images are those of another one if it is named for them, the one tested on is named for testing, and
      labels are there where train has labels: the first such one with labels, else with images. What is named
      validation holds the test images where nothing else does; validation images are then drawn from train.

    Args:
        words: of `TEST_WORDS`, one per split, in the order of preference.
        worth: of each split: `EMPTY`, `UNLABELLED` or `LABELLED`.
        train: the same of the training split.

    Returns:
        places in ``words``, or None.
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
