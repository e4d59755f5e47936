"""``folder``: any folder of pictures, with class sub-folders, with a table of labels, or without labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NoReturn

import torch

from hjepa.data.dataset import Division, EncodedPixels, Split
from hjepa.data.images.decode import SUFFIXES
from hjepa.data.listing import Listing
from hjepa.data.sources.labels import read_labels, sort_classes
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig

logger = logging.getLogger("hjepa")

_TEST_NAMES = ("test", "val", "valid", "validation")
_IGNORED = {"__MACOSX"}


class FileBlobs:
    """Image files below a folder.

    Args:
        root: the folder.
        names: paths relative to it, with forward slashes.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> bytes:
        """The bytes of one file. Raises `OSError`."""
        return (self.root / self.names[index]).read_bytes()


def find(data: DataConfig, split: Split, path: Path) -> Listing:
    """List the pictures of a folder.

    * ``train/`` beside ``test/`` (or ``val/``, ``valid/``, ``validation/``) and nothing else: those are the splits.
      Beside ``test/``, one of the other names holds the validation images. Otherwise the split is drawn from the seed.
    * Class: the first folder below the split, however deep the file lies in it. Pictures that lie directly in it
      have none. A lone folder that holds everything is stepped into.
    * With ``data.labels_file`` the table says the class and folders say nothing.

    Hidden files and folders are left out, and files whose names do not end as pictures' do.

    Raises:
        UserError: no ``data.data_path``.
        DataError: no such folder, no pictures, or a table that does not fit them.
    """
    if data.data_path is None:
        raise UserError("data.data_path: needed for data.dataset=folder; give the folder with the images")
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"data.data_path: {path} {what}; give the folder with the images")
    description = f"folder {path.resolve().name}"
    if data.labels_file is None:
        root = _step_into(path)
        return replace(list_split(root, split, _split_folders(root), "folder"), description=description)
    parts = _split_folders(path)
    listed = _list_parts(path, parts)
    names = listed[split if split in listed else "train"]
    if not names:
        raise _nothing(parts.get(split, parts.get("train", path)))
    known = [name for files in listed.values() for name in files]
    labels, classes = read_labels(data.labels_file, names, known)
    return Listing(
        EncodedPixels(FileBlobs(path, names)),
        names,
        labels,
        classes,
        whole="test" not in parts,
        root=path,
        sample=EncodedPixels(FileBlobs(path, listed["train"])),
        description=description,
        division=Division(own_validation="validation" in parts),
    )


def list_split(root: Path, split: Split, parts: dict[str, Path], name: str) -> Listing:
    """List one split by its class folders.

    Args:
        root: what identifiers are relative to.
        split: which one.
        parts: folders of the splits; the whole of ``root`` is still to be divided where ``"test"`` is not among them.
        name: of the data set, for messages.

    Raises:
        DataError: no pictures.
    """
    listed = _list_parts(root, parts)
    names = listed[split if split in listed else "train"]
    folder = parts.get(split, parts.get("train", root))
    if not names:
        raise _nothing(folder)
    # All splits decide the numbering, so that a class that one of them lacks does not shift the others.
    depth = {part: len(parts[part].relative_to(root).parts) if part in parts else 0 for part in listed}
    classes = sort_classes(
        {c for part, files in listed.items() for n in files if (c := _class(n, depth[part])) is not None}
    )
    labels = None
    if classes:
        number = {c: label for label, c in enumerate(classes)}
        here = depth[split if split in listed else "train"]
        found = [_class(n, here) for n in names]
        labels = torch.tensor([-1 if c is None else number[c] for c in found])
        if None in found:
            logger.warning(
                "%s: %d images lie beside the class folders of %s and have no label", name, found.count(None), folder
            )
    return Listing(
        EncodedPixels(FileBlobs(root, names)),
        names,
        labels,
        tuple(classes) if classes else None,
        whole="test" not in parts,
        root=folder,
        sample=EncodedPixels(FileBlobs(root, listed["train"])),
        division=Division(own_validation="validation" in parts),
    )


def _list_parts(root: Path, parts: dict[str, Path]) -> dict[str, list[str]]:
    return {part: _walk(root, folder) for part, folder in (parts or {"train": root}).items()}


def _nothing(folder: Path) -> DataError:
    return DataError(f"data.data_path: no images in {folder}; files ending in {' '.join(SUFFIXES)} are looked for")


def _class(name: str, depth: int) -> str | None:
    parts = name.split("/")
    return parts[depth] if len(parts) > depth + 1 else None


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name not in _IGNORED)


def _entries(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in _visible(entry.name for entry in folder.iterdir())]
    except OSError as error:
        _unlistable(error)


def _unlistable(error: OSError) -> NoReturn:
    raise DataError(f"data.data_path: {error.filename} cannot be listed ({error.strerror}); make it readable") from None


def _step_into(root: Path) -> Path:
    """Follow lone folders, as archives leave them, down to where there is something to tell apart."""
    while True:
        entries = _entries(root)
        folders = [entry for entry in entries if entry.is_dir()]
        pictures = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]
        if len(folders) != 1 or pictures:
            return root
        logger.info("%s holds one folder only; using %s", root, folders[0])
        root = folders[0]


def _split_folders(root: Path) -> dict[str, Path]:
    """``train``, ``test`` and perhaps ``validation``, where the folders below ``root`` are named as splits, all of
    them."""
    folders = {entry.name.lower(): entry for entry in _entries(root) if entry.is_dir()}
    if "train" not in folders or not set(folders) <= {"train", *_TEST_NAMES}:
        return {}
    parts = {"train": folders["train"]}
    there = [folders[name] for name in _TEST_NAMES if name in folders]
    parts |= {"test": there[0]} if there else {}
    # What is called validation holds test images unless others are called so.
    if "test" in folders and len(there) > 1:
        parts["validation"] = there[1]
    return parts


def _walk(root: Path, start: Path) -> list[str]:
    """Pictures below ``start`` as sorted paths relative to ``root``; links to folders are followed, loops are not."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(start, onerror=_unlistable, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = _visible(below)
        prefix = Path(folder).relative_to(root).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        found += [f"{prefix}{name}" for name in _visible(files) if PurePath(name).suffix.lower() in SUFFIXES]
    return sorted(found)
