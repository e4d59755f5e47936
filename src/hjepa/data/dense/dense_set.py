"""A data set with dense targets: two splits and the names of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hjepa.data.dataset import EncodedPixels, ImageDataset, Split
from hjepa.data.listing import withheld
from hjepa.data.sources.folder import FileBlobs
from hjepa.data.targets import Targets
from hjepa.errors import DataError, UserError

IGNORED = 255
"""Value of pixels that are neither fitted nor scored."""


@dataclass(frozen=True)
class DenseSet:
    """Images with a map of classes or with boxes."""

    name: str
    """Its name in the configuration."""
    description: str
    """A few words for tables."""
    train: ImageDataset
    """Images to fit on, validation images among them."""
    test: ImageDataset
    """Images to report on."""
    classes: tuple[str, ...]
    """Names in the order of map values, or of the labels of boxes."""

    def rows(self, split: Split, seed: int, most: int | None) -> tuple[ImageDataset, Tensor]:
        """Images of a split and the rows to use, int64 ascending.

        A tenth of the training images, at most 5,000, is withheld for validation whatever split is read.

        Args:
            split: ``train``, ``validation`` or ``test``.
            seed: draws the validation images, and the rows if there are more than ``most``.
            most: maximum number of rows; all if None.

        Raises:
            UserError: validation is asked for, but there are too few images to withhold any.
        """
        data = self.test if split == "test" else self.train
        rows = torch.arange(len(data))
        if split != "test":
            held = withheld(None, len(data), "auto", seed)
            held = torch.zeros(len(data), dtype=torch.bool) if held is None else held
            rows = rows[held] if split == "validation" else rows[~held]
        if not len(rows):
            raise UserError(f"split: {self.name} has too few images for the {split} split; use --split test")
        if most is not None and most < len(rows):
            chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]
            rows = rows[chosen.sort().values]
        return data, rows


def file_dataset(
    name: str, split: Split, root: Path, names: Sequence[str], targets: Targets, *, channels: int, description: str
) -> ImageDataset:
    """Images in files, decoded on every read, with a target each.

    Args:
        name: name of the data set.
        split: which split.
        root: folder that the names are relative to.
        names: paths with forward slashes.
        targets: one per name.
        channels: channels to convert to.
        description: a few words for tables.

    Raises:
        DataError: there are no images.
    """
    if not names:
        raise DataError(f"{name}: no {split} images at {root}; check the data path")
    pixels = EncodedPixels(FileBlobs(root, list(names)), channels)
    return ImageDataset(
        pixels,
        name=name,
        split=split,
        channels=channels,
        identifiers=list(names),
        description=description,
        targets=targets,
    )


def existing(root: Path, what: str, *parts: str) -> Path:
    """A folder or file of a layout.

    Raises:
        DataError: it does not exist; ``what`` says what the layout is.
    """
    path = root.joinpath(*parts)
    if not path.exists():
        raise DataError(f"{path}: not found; expected {what}")
    return path
