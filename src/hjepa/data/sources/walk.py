"""Search folders for images, keeping track of everything that is left out."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NoReturn

from hjepa.data.images.decode import is_picture
from hjepa.data.listing import Note
from hjepa.data.wording import quantity
from hjepa.errors import DataError

# Folders that storage devices, operating systems and archivers create, in lower case.
_SYSTEM = frozenset(
    {
        "__macosx",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
# Image formats that Pillow does not support, worth a hint.
_FOREIGN = frozenset(
    [
        ".heic",
        ".heif",
        ".jxl",
        ".svg",
        ".dcm",
        ".nii",
        ".dng",
        ".raw",
        ".nef",
        ".cr2",
        ".cr3",
        ".arw",
        ".orf",
        ".rw2",
        ".exr",
        ".hdr",
    ]
)
_SHOWN = 5


class Walk:
    """Search of the folders of a data set. Links to folders are followed; no folder is read twice.

    Left out are hidden files and folders, system folders (``@eaDir``, ``$RECYCLE.BIN``, ``__MACOSX`` and others), files
    without an image suffix, and everything that matches ``exclude``.

    Args:
        top: ``data.data_path``, the folder that patterns are relative to.
        exclude: ``data.exclude``. A pattern with a slash is matched against paths relative to ``top``, one without
            against the name of every file and folder. Excluding a folder excludes its contents.
    """

    def __init__(self, top: Path, exclude: Sequence[str] = ()) -> None:
        self.top = top
        self._patterns = [pattern.rstrip("/") for pattern in exclude]
        self._used: set[str] = set()
        self._seen: dict[tuple[int, int], str] = {}
        self._suffixes: Counter[str] = Counter()
        self._system: dict[str, str] = {}
        self._hidden: set[str] = set()
        self._excluded: dict[str, None] = {}
        self._twice: dict[str, str] = {}

    def folders(self, folder: Path) -> list[Path]:
        """The direct subfolders of a folder, sorted by name.

        Raises:
            DataError: the folder cannot be listed.
        """
        return [entry for entry in self._entries(folder) if entry.is_dir()]

    def has_pictures(self, folder: Path) -> bool:
        """Whether a folder directly contains images."""
        return any(is_picture(entry.name) and not entry.is_dir() for entry in self._entries(folder))

    def holds_pictures(self, folder: Path) -> bool:
        """Whether a folder contains images, at any depth."""
        seen: set[tuple[int, int]] = set()
        for at, below, files in os.walk(folder, onerror=_unlistable, followlinks=True):
            identity = _identity(at)
            if identity in seen:
                below.clear()
                continue
            seen.add(identity)
            if any(map(is_picture, self._visible(at, files))):
                return True
            below[:] = self._visible(at, below)
        return False

    def pictures(self, root: Path, start: Path) -> list[str]:
        """Images below ``start`` as sorted paths relative to ``root``, with forward slashes.

        Raises:
            DataError: a folder cannot be listed.
        """
        found: list[str] = []
        for at, below, files in os.walk(start, onerror=_unlistable, followlinks=True):
            identity, here = _identity(at), self._relative(at)
            if identity in self._seen:
                self._twice[here] = self._seen[identity]
                below.clear()
                continue
            self._seen[identity] = here
            below[:] = self._visible(at, below)
            prefix = Path(at).relative_to(root).as_posix()
            prefix = "" if prefix == "." else f"{prefix}/"
            for name in self._visible(at, files):
                if is_picture(name):
                    found.append(f"{prefix}{name}")
                else:
                    self._suffixes[PurePath(name).suffix.lower() or "no suffix"] += 1
        return sorted(found)

    def same_folder(self, folder: Path) -> str | None:
        """The folder, relative to the top, that ``folder`` is a link to or a second path of; None if there is none."""
        return self._twice.get(self._relative(str(folder)))

    def others(self) -> str:
        """Number of files by suffix that are not images: ``.txt (3), .heic (1)``; empty if there are none."""
        return counted(self._suffixes)

    def notes(self) -> list[Note]:
        """Notes about what has been left out so far."""
        return list(self._notes())

    def _notes(self) -> Iterator[Note]:
        for again, first in self._twice.items():
            yield Note(f"{again} and {first} are the same folder (a link); using its images once, as {first}")
        if self._excluded:
            what = quantity(len(self._excluded), "entry", "entries")
            yield Note(f"left out by data.exclude: {what}: {listed(list(self._excluded))}")
        for pattern in self._patterns:
            if pattern not in self._used:
                yield Note(f"data.exclude: {pattern!r} matches nothing below {self.top}")
        if self._system:
            yield Note(f"left out system folders: {counted(Counter(self._system.values()))}")
        if self._hidden:
            what = quantity(len(self._hidden), "hidden entry", "hidden entries")
            yield Note(f"left out {what}: {listed(sorted(self._hidden))}", logging.INFO)
        if self._suffixes:
            what = f"{quantity(self._suffixes.total(), 'file')} without an image suffix"
            foreign = _FOREIGN & self._suffixes.keys()
            advice = f"; Pillow cannot open {listed(sorted(foreign))}, convert these to .png" if foreign else ""
            yield Note(f"left out {what}: {self.others()}{advice}", logging.WARNING if foreign else logging.INFO)

    def _entries(self, folder: Path) -> list[Path]:
        try:
            names = [entry.name for entry in folder.iterdir()]
        except OSError as error:
            _unlistable(error)
        return [folder / name for name in self._visible(str(folder), names)]

    def _visible(self, folder: str, names: Iterable[str]) -> list[str]:
        return [name for name in sorted(names) if not self._left_out(folder, name)]

    def _left_out(self, folder: str, name: str) -> bool:
        if name.startswith("."):
            self._hidden.add(self._relative(os.path.join(folder, name)))  # noqa: PTH118 (as above)
            return True
        if name.lower() in _SYSTEM:
            self._system[self._relative(os.path.join(folder, name))] = name  # noqa: PTH118
            return True
        return bool(self._patterns) and self._is_excluded(self._relative(os.path.join(folder, name)), name)  # noqa: PTH118

    def _is_excluded(self, path: str, name: str) -> bool:
        for pattern in self._patterns:
            if fnmatch.fnmatchcase(path if "/" in pattern else name, pattern):
                self._used.add(pattern)
                self._excluded[path] = None
                return True
        return False

    def _relative(self, path: str) -> str:
        return Path(path).relative_to(self.top).as_posix()


def counted(counts: Counter[str]) -> str:
    """Names with their counts, most frequent first: ``.txt (3), .json (1)``."""
    return listed([f"{name} ({number})" for name, number in sorted(counts.items(), key=lambda c: (-c[1], c[0]))])


def listed(names: Sequence[str]) -> str:
    """The first few names as text, and the number of the rest."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _identity(folder: str) -> tuple[int, int]:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _unlistable(error: OSError) -> NoReturn:
    raise DataError(f"data.data_path: {error.filename} cannot be listed ({error.strerror}); make it readable") from None
