"""``imagenet`` and ``imagenet100``: ILSVRC 2012 from a local copy; its licence forbids automatic downloads."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hjepa.data.dataset import Split
from hjepa.data.listing import Listing
from hjepa.data.sources import folder
from hjepa.data.sources.walk import Walk
from hjepa.errors import DataError
from hjepa.runtime.file_lock import alone_at

if TYPE_CHECKING:
    from hjepa.config import DataConfig

_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


def find(data: DataConfig, split: Split, path: Path) -> Listing:
    """List ``<path>/train/<wnid>/*.JPEG`` or ``<path>/val/<wnid>/*.JPEG``; the test split is ``val``.

    If a split's folder is missing but its archive and the development kit are in ``path``, they are extracted there
    first. ``imagenet100`` needs ``data.classes_file`` unless there are exactly 100 class folders, as publications use
    different lists of classes.

    Raises:
        DataError: neither folders nor archives exist, or the class list is missing; the message has instructions.
    """
    for part in ("train", "val"):
        if not (path / part).is_dir():
            _require_archives(data.dataset, path, part)
            with alone_at(path):
                # Another process may have extracted it while this one waited.
                if not (path / part).is_dir():
                    _extract(data.dataset, path, part)
    walk = Walk(path, data.exclude)
    listing = folder.list_split(walk, path, folder.SplitFolders(path / "train", (path / "val",)), split)
    listing = replace(listing, notes=(*listing.notes, *walk.notes()))
    classes = 0 if listing.class_names is None else len(listing.class_names)
    if data.dataset == "imagenet100" and data.classes_file is None and classes != 100:
        raise DataError(
            f"data.dataset=imagenet100: {path} has {classes} class folders; set data.classes_file to a text file "
            "with the 100 folder names (such as n01440764) to use, one per line"
        )
    return listing


def _require_archives(name: str, path: Path, part: str) -> None:
    if not (path / _ARCHIVES[part]).is_file() or not (path / _DEVKIT).is_file():
        raise DataError(
            f"data.dataset={name}: {path / part} does not exist, and the licence forbids automatic downloads; "
            f"register at https://image-net.org, download {_ARCHIVES['train']}, {_ARCHIVES['val']} and {_DEVKIT} "
            f"(ILSVRC 2012) to {path} and run again, or set data.data_path to an extracted copy "
            "(train/<wnid>/*.JPEG and val/<wnid>/*.JPEG)"
        )


def _extract(name: str, path: Path, part: str) -> None:
    from torchvision.datasets import ImageNet

    # In a temporary folder, so that an interrupted extraction is never mistaken for the data set.
    stage = path / f".extracting-{part}"
    archive = path / _ARCHIVES[part]
    try:
        if stage.exists():
            shutil.rmtree(stage)
        stage.mkdir()
        for needed in (archive, path / _DEVKIT):
            _link(needed, stage / needed.name)
        ImageNet(str(stage), split=part)
        (stage / part).replace(path / part)
    except (RuntimeError, OSError, EOFError) as error:
        raise DataError(
            f"data.dataset={name}: {archive} cannot be extracted ({' '.join(str(error).split())}); "
            "download it again, or extract it by hand"
        ) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _link(target: Path, link: Path) -> None:
    try:
        os.link(target, link)
    except OSError:
        link.symlink_to(target.absolute())
