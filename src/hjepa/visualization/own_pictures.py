"""The user's own pictures, in place of images of the run's data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hjepa.data import ImageDataset
from hjepa.data.dataset import EncodedPixels
from hjepa.data.images.decode import is_picture
from hjepa.data.sources.folder import FileBlobs
from hjepa.errors import DataError, UserError
from hjepa.visualization.split_images import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa.runs.load import TrainedRun

MOST_PICTURES = 64
_LONGEST_NAME = 16


class OwnPictures(ImageSource):
    """Pictures given as files or folders, in the given order; a folder's pictures by name.

    Every picture is decoded once here, so that a file that is no picture is reported before anything is computed.

    Args:
        run: the run.
        paths: files and folders, which are not searched for subfolders.

    Raises:
        UserError: no such file or folder, no picture in a folder, more than 64 pictures, or a file that cannot be
            decoded.
    """

    def __init__(self, run: TrainedRun, paths: Sequence[str | Path]) -> None:
        files = _files(paths)
        dataset = ImageDataset(
            EncodedPixels(FileBlobs(Path(), [str(path) for path in files]), run.channels),
            name="own pictures",
            split="test",
            channels=run.channels,
            identifiers=[str(path) for path in files],
            bad_images="stop",
        )
        super().__init__(run, dataset, torch.arange(len(files)), num_workers=0, what="the given pictures")
        for row in range(len(files)):
            try:
                dataset.read(row)
            except DataError as error:
                raise UserError(f"--images: {str(error).partition(';')[0]}; leave it out or convert it") from None

    def names(self, rows: Tensor) -> list[str]:
        """File names without suffix, shortened to fit under a picture."""
        stems = [Path(self.dataset.identifiers[row]).stem for row in rows.tolist()]
        return [stem if len(stem) <= _LONGEST_NAME else stem[: _LONGEST_NAME - 1] + "…" for stem in stems]


def _files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.is_file() and is_picture(entry.name))
            if not inside:
                raise UserError(f"--images: {path} holds no pictures; give files, or a folder with pictures")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"--images: {path}: no such file or folder")
    if not found:
        raise UserError("--images: no pictures given; give files, or a folder with pictures")
    if len(found) > MOST_PICTURES:
        raise UserError(f"--images: {len(found)} pictures are too many to draw; give at most {MOST_PICTURES}")
    return found
