"""``folder``: a folder of images, with class subfolders, a table of labels, or no labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hjepa.data.dataset import Division, EncodedPixels, Split
from hjepa.data.listing import Listing, Note
from hjepa.data.sources.labels import find_table, read_labels, require_rows, sort_classes
from hjepa.data.sources.walk import Walk, listed
from hjepa.data.split_names import (
    EMPTY,
    LABELLED,
    TEST_WORDS,
    UNLABELLED,
    choose_splits,
    is_train,
    split_of_folder,
)
from hjepa.data.wording import quantity
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig

# A single subfolder with such a name holds all images of a split and is not a class, as `train/images`.
_NO_CLASSES = frozenset({"image", "images", "img", "imgs", "jpegimages", "picture", "pictures", "photo", "photos"})


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


@dataclass(frozen=True)
class SplitFolders:
    """Folders whose names mark them as splits."""

    train: Path
    """The training split."""
    tests: tuple[Path, ...]
    """Candidates for testing and validation, in order of preference; empty if test is to be drawn from train."""


@dataclass(frozen=True)
class _Part:
    """The images of one split folder, with their labels."""

    folder: Path
    names: list[str]
    labels: list[str | None]
    """Class of each image."""
    tabled: bool = False
    """Whether the labels come from ``data.labels_file``."""
    notes: tuple[Note, ...] = ()

    @property
    def classes(self) -> set[str]:
        return {label for label in self.labels if label is not None}

    @property
    def worth(self) -> int:
        return LABELLED if self.classes else UNLABELLED if self.names else EMPTY


def find(data: DataConfig, split: Split, path: Path) -> Listing:
    """List the images of a folder.

    * Splits: if there is a folder named for training (``train``, ``training``, ``train2017``, ...) and one named for
      testing (``test``, ``val``, ``dev``, ...), these are the splits, and everything beside them is left out. If there
      is a test folder, one named for validation (``val``, ``dev``, ...) is the validation split. Otherwise test is
      drawn from the seed.
    * Classes: the class of an image is the first folder below the split, at any depth. Images directly in the split
      folder have no class. If everything is in a single subfolder, that one is used as the root.
    * A test folder without class folders takes its labels from a table in or beside it, if there is one.
    * With ``data.labels_file``, classes come from that table; splits that it does not list use their folders.

    `Walk` documents which files and folders are left out; the listing's notes report them.

    Raises:
        UserError: ``data.data_path`` is not set.
        DataError: the folder does not exist, has no images, or does not match the table.
    """
    if data.data_path is None:
        raise UserError("data.data_path: required for data.dataset=folder; give the folder with the images")
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"data.data_path: {path} {what}; give the folder with the images")
    walk = Walk(path, data.exclude)
    root, notes = (path, []) if data.labels_file is not None else _step_into(walk, path)
    parts, beside = _split_folders(walk, root)
    listing = list_split(walk, root, parts, split, data.labels_file)
    return replace(
        listing, description=f"folder {path.resolve().name}", notes=(*notes, *beside, *listing.notes, *walk.notes())
    )


def list_split(walk: Walk, root: Path, parts: SplitFolders, split: Split, labels_file: Path | None = None) -> Listing:
    """List one split, with labels from class folders or a table.

    If several folders could be the test or validation split, `choose_splits` prefers those with labels.

    Args:
        walk: finds the images.
        root: the folder that identifiers are relative to.
        parts: folders of the splits; without test folders the listing covers the whole, undivided set.
        split: the split to list.
        labels_file: ``data.labels_file``.

    Raises:
        DataError: there are no images, or the table does not match them.
    """
    found = {folder: walk.pictures(root, folder) for folder in (parts.train, *parts.tests)}
    table = None if labels_file is None else read_labels(labels_file, [n for names in found.values() for n in names])
    train = _label(root, parts.train, found[parts.train], labels_file, table)
    tests = [
        _find_labels(_label(root, folder, found[folder], labels_file, table), train.classes) for folder in parts.tests
    ]
    used = _choose(train, tests)
    here = used.get(split, train)
    if not here.names:
        raise _nothing(walk, here.folder)
    # Number the classes of all splits together, so that a class missing in one split does not shift the numbers.
    classes = sort_classes({label for part in used.values() for label in part.classes})
    number: dict[str | None, int] = {None: -1} | {name: label for label, name in enumerate(classes)}
    return Listing(
        EncodedPixels(FileBlobs(root, here.names)),
        here.names,
        torch.tensor([number[label] for label in here.labels]) if classes else None,
        # Names that are not valid UTF-8 could not be printed or drawn.
        tuple(name.encode("utf-8", "backslashreplace").decode() for name in classes) if classes else None,
        whole="test" not in used,
        root=here.folder,
        sample=EncodedPixels(FileBlobs(root, train.names)),
        division=Division(own_validation="validation" in used),
        notes=(*_choice(used, tests), *_account(list(used.values()))),
    )


def _choose(train: _Part, tests: Sequence[_Part]) -> dict[Split, _Part]:
    """The folder of each split; only train if test is to be drawn from it."""
    words = [split_of_folder(part.folder.name) or "" for part in tests]
    test, validation = choose_splits(words, [part.worth for part in tests], train.worth)
    used: dict[Split, _Part] = {"train": train}
    if test is not None:
        used["test"] = tests[test]
    if validation is not None:
        used["validation"] = tests[validation]
    return used


def _label(root: Path, folder: Path, names: list[str], path: Path | None, table: dict[str, str] | None) -> _Part:
    """Label the images of a folder: from the table if it lists any of them, else from class folders."""
    if path is not None and table is not None and any(name in table for name in names):
        require_rows(path, table, names)
        return _Part(folder, names, [table[name] or None for name in names], tabled=True)
    depth = len(folder.relative_to(root).parts)
    part = _Part(folder, names, [_class(name, depth) for name in names])
    if len(part.classes) == 1 and next(iter(part.classes)).lower() in _NO_CLASSES:
        return _Part(folder, names, [None] * len(names))
    return part


def _find_labels(part: _Part, classes: set[str]) -> _Part:
    """Label a test folder without known class folders from a table found in or beside it; otherwise drop its labels."""
    if not classes or not part.names or part.classes & classes or part.tabled:
        return part
    found = find_table(part.folder, part.names, classes)
    if found is not None:
        file, labels = found
        note = Note(f"{part.folder.name}/: reading labels from {file.parent.name}/{file.name}", logging.INFO)
        return _Part(part.folder, part.names, [labels[name] for name in part.names], notes=(note,))
    folders = f"its folders ({listed(sorted(part.classes))}) are not classes of the training split"
    why = folders if part.classes else "it has no class folders"
    note = Note(
        f"{part.folder.name}/: {quantity(len(part.names), 'image')} without a label, because {why}; "
        "to label them, set data.labels_file"
    )
    return _Part(part.folder, part.names, [None] * len(part.names), notes=(note,))


def _choice(used: dict[Split, _Part], tests: Sequence[_Part]) -> list[Note]:
    """Notes about the folders that could be the test or validation split."""
    if "test" not in used:
        return []
    name = used["test"].folder.name
    notes = []
    for part in tests:
        if part not in used.values():
            lack = "" if part.classes or not used["test"].classes else "has no labels and "
            notes.append(
                Note(
                    f"{part.folder.name}/ {lack}is not used ({quantity(len(part.names), 'image')}); {name}/ is the test "
                    "split"
                )
            )
    if split_of_folder(name) != "test" and not notes:
        notes.append(
            Note(
                f"using {used['train'].folder.name}/ as the training split and {name}/ as the test split", logging.INFO
            )
        )
    return notes


def _account(parts: Sequence[_Part]) -> list[Note]:
    """Notes about missing and unknown labels in the splits in use."""
    notes = [note for part in parts for note in part.notes]
    for part in parts:
        lost = part.labels.count(None)
        if part.classes and lost and not part.tabled:
            notes.append(Note(f"{quantity(lost, 'image')} in {part.folder} without a label, outside all class folders"))
    train = parts[0]
    for part in parts[1:] if train.classes else ():
        unknown = sorted(part.classes - train.classes)
        if unknown:
            notes.append(
                Note(
                    f"{part.folder.name}/ has {quantity(len(unknown), 'class', 'classes')} not in {train.folder.name}/, so no "
                    f"classifier can learn {'it' if len(unknown) == 1 else 'them'}: {listed(unknown)}"
                )
            )
    return notes


def _nothing(walk: Walk, folder: Path) -> DataError:
    same = walk.same_folder(folder)
    if same is not None:
        return DataError(
            f"data.data_path: {folder} and {walk.top / same} are the same folder; give each split its own folder"
        )
    there = walk.others()
    holds = (
        f"it contains {there}"
        if there
        else "give a folder with .jpg, .png, .webp, .tif or other files that Pillow can open"
    )
    return DataError(f"data.data_path: no images in {folder}; {holds}")


def _class(name: str, depth: int) -> str | None:
    parts = name.split("/")
    return parts[depth] if len(parts) > depth + 1 else None


def _step_into(walk: Walk, root: Path) -> tuple[Path, list[Note]]:
    """Descend while everything is in a single subfolder, as unpacked archives often are."""
    notes: list[Note] = []
    while True:
        folders = walk.folders(root)
        if walk.has_pictures(root) or not folders or _named_splits(folders) is not None:
            return root, notes
        full = folders if len(folders) == 1 else [folder for folder in folders if walk.holds_pictures(folder)]
        if len(full) != 1:
            return root, notes
        empty = [folder.name for folder in folders if folder != full[0]]
        if empty:
            notes.append(Note(f"left out folders without images in {root}: {listed(empty)}"))
        notes.append(Note(f"{root} has a single folder of images; using {full[0]}", logging.INFO))
        root = full[0]


def _named_splits(folders: Sequence[Path]) -> tuple[list[Path], list[Path]] | None:
    """Folders named for training and for testing; None unless there are both."""
    words = {folder: word for folder in folders if (word := split_of_folder(folder.name)) is not None}
    train = sorted((f for f, word in words.items() if is_train(word)), key=lambda f: f.name.lower() != words[f])
    tests = [folder for folder, word in words.items() if not is_train(word)]
    tests.sort(key=lambda f: (TEST_WORDS.index(words[f]), f.name.lower() != words[f]))
    return (train, tests) if train and tests else None


def _split_folders(walk: Walk, root: Path) -> tuple[SplitFolders, list[Note]]:
    """Find the splits by the names of the folders in ``root``; also return notes about the other folders."""
    folders = walk.folders(root)
    named = _named_splits(folders)
    if named is None:
        classes = [f.name for f in folders if split_of_folder(f.name) is not None]
        notes = [
            Note(
                f"reading the folder {name} as a class; folders are splits only if there is one for training (train) "
                "and one for testing (test, val, ...)"
            )
            for name in classes
            if len(folders) > 1
        ]
        return SplitFolders(root, ()), notes
    train, tests = named
    if len(train) > 1 and split_of_folder(train[0].name) != train[0].name.lower():
        raise DataError(
            f"data.data_path: {root} has several training folders ({', '.join(f.name for f in train)}); name one of them "
            "train, or leave the others out with data.exclude"
        )
    unused = [f.name for f in folders if f not in (train[0], *tests)]
    notes = [Note(f"left out beside {train[0].name}/ and {tests[0].name}/: {listed(unused)}")] if unused else []
    return SplitFolders(train[0], tuple(tests)), notes
