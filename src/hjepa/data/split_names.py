"""Which words name a split, the same for folders, Parquet files and shards."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

TRAIN_WORDS = ("train", "training")
"""Words for the training split."""
TEST_WORDS = ("test", "testing", "val", "valid", "validation", "dev", "eval")
"""Words for the split that is tested on, in the order of preference."""

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


def _word(name: str) -> str | None:
    found = [word for word in re.split(r"[^a-z]+", name.lower()) if word in TRAIN_WORDS or word in TEST_WORDS]
    return found[0] if len({is_train(word) for word in found}) == 1 else None
