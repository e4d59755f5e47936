"""One's own images and masks in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hjepa.data.dataset import ImageDataset, Split
from hjepa.data.dense.dense_set import DenseSet, existing, file_dataset
from hjepa.data.dense.mask_files import MaskFiles
from hjepa.data.images.decode import UnreadableImageError, is_picture
from hjepa.data.listing import held_out
from hjepa.errors import DataError

_LAYOUT = "folders images and masks with equal file names, in train and test or directly in the folder"
_TEST_FOLDERS = ("test", "val", "validation")
_TEST_FRACTION = 0.2
# Masks that are read to count the classes if `classes.txt` is missing.
_MOST_SCANNED = 2000


def find(root: Path, channels: int, seed: int) -> DenseSet:
    """Images and masks with equal names, for example ``train/images/a.jpg`` and ``train/masks/a.png``.

    Masks have one value per pixel: 0 to classes - 1, or 255 for pixels that do not count. Without folders ``train``
    and ``test`` (or ``val``), a fifth of the images is drawn for testing. ``classes.txt`` names the classes, one a
    line; without it the largest value in the masks tells how many there are.

    Args:
        root: the folder.
        channels: channels to convert to.
        seed: draws the test images.

    Raises:
        DataError: a folder, or the mask of an image, is missing.
    """
    if (root / "train").is_dir():
        test_folder = next((name for name in _TEST_FOLDERS if (root / name).is_dir()), "test")
        train, test = _part(root, "train", "train", channels), _part(root, test_folder, "test", channels)
    else:
        whole = _part(root, "", "train", channels)
        drawn = held_out(None, len(whole), _TEST_FRACTION, seed)
        train, test = whole.select((~drawn).nonzero().flatten()), whole.select(drawn.nonzero().flatten())
        test.split = "test"
    return DenseSet("masks", f"images and masks of {root.name}", train, test, _classes(root, train))


def _part(root: Path, folder: str, split: Split, channels: int) -> ImageDataset:
    home = root / folder
    images = existing(home, _LAYOUT, "images")
    masks = {path.stem: path for path in sorted(existing(home, _LAYOUT, "masks").iterdir()) if is_picture(path.name)}
    files = sorted(path for path in images.iterdir() if is_picture(path.name))
    lacking = next((path for path in files if path.stem not in masks), None)
    if lacking is not None:
        raise DataError(f"{lacking}: there is no mask of this name in {home / 'masks'}; add it, or remove the image")
    maps = MaskFiles(home, tuple(f"masks/{masks[path.stem].name}" for path in files))
    names = [f"images/{path.name}" for path in files]
    return file_dataset("masks", split, home, names, maps, channels=channels, description=f"images of {root.name}")


def _classes(root: Path, train: ImageDataset) -> tuple[str, ...]:
    file = root / "classes.txt"
    if file.is_file():
        return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    assert train.targets is not None
    largest = 0
    try:
        for index in np.linspace(0, len(train) - 1, min(len(train), _MOST_SCANNED)).astype(int):
            values = train.targets.read(int(index))
            assert isinstance(values, torch.Tensor)
            kept = values[values != 255]
            largest = max(largest, int(kept.max()) if kept.numel() else 0)
    except UnreadableImageError as error:
        raise DataError(f"{train.identifiers[int(index)]}: {error}; repair or remove it") from None
    return tuple(str(number) for number in range(largest + 1))
