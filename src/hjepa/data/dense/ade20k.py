"""ADE20K (Zhou et al., CVPR 2017) in the layout of the MIT scene parsing benchmark, ``ADEChallengeData2016``."""

from __future__ import annotations

from pathlib import Path

from hjepa.data.dataset import ImageDataset, Split
from hjepa.data.dense.dense_set import DenseSet, existing, file_dataset
from hjepa.data.dense.mask_files import MaskFiles

NUM_CLASSES = 150
_LAYOUT = "the ADEChallengeData2016 layout: images and annotations, each with training and validation"


def find(root: Path, channels: int) -> DenseSet:
    """The folders ``training`` to fit on and ``validation`` to report on.

    In the files 0 means "other objects", which the benchmark does not score; 1 to 150 are the classes. Their names are
    those of ``objectInfo150.txt`` if it is there.

    Args:
        root: ``ADEChallengeData2016``, or the folder that contains it.
        channels: channels to convert to.

    Raises:
        DataError: a part of the layout is missing.
    """
    nested = root / "ADEChallengeData2016"
    home = nested if nested.is_dir() else root
    return DenseSet(
        "ade20k",
        "ADE20K scene parsing, 150 classes",
        _split(home, "train", "training", channels),
        _split(home, "test", "validation", channels),
        _names(home / "objectInfo150.txt"),
    )


def _split(home: Path, split: Split, folder: str, channels: int) -> ImageDataset:
    images = existing(home, _LAYOUT, "images", folder)
    existing(home, _LAYOUT, "annotations", folder)
    names = sorted(path.stem for path in images.glob("*.jpg"))
    masks = MaskFiles(home, tuple(f"annotations/{folder}/{name}.png" for name in names), shift=1)
    files = [f"images/{folder}/{name}.jpg" for name in names]
    return file_dataset("ade20k", split, home, files, masks, channels=channels, description="ADE20K")


def _names(file: Path) -> tuple[str, ...]:
    """Names in the last column of the benchmark's table, after one line of titles; numbers if it is not there."""
    if file.is_file():
        rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        if len(rows) == NUM_CLASSES:
            return tuple(row[-1].split(",")[0].strip() for row in rows)
    return tuple(str(number) for number in range(1, NUM_CLASSES + 1))
