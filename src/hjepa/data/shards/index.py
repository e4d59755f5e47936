"""Stored indexes of shards, so that each tar file is scanned only once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hjepa.data.shards.tar import TarIndex, scan_tar
from hjepa.runtime.file_lock import exclusive

# 2: more suffixes are images.
_VERSION = 2
# Shards share a fixed number of lock files, because lock files are never deleted.
_STRIPES = 64


class Stamp(NamedTuple):
    """Size and modification time of a file, to detect changes since it was scanned."""

    size: int
    """Size in bytes."""
    modified: int
    """Modification time in nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file. Raises `OSError`."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


class IndexStore:
    """Indexes in a folder, one file per shard, by the shard's path or URL.

    If the folder cannot be written, shards are scanned on every use.

    Args:
        folder: the folder, created with the first index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, path: Path, name: str | None = None) -> TarIndex:
        """The index of a tar file: the stored one if size and modification time are unchanged, else a new one.

        Args:
            path: the file.
            name: key of the index; the file's absolute path if None.

        Raises:
            OSError: the file cannot be read.
        """
        name = str(path.absolute()) if name is None else name
        stamp = Stamp.of(path)
        stored = self._read(name, stamp)
        if stored is not None:
            return stored
        with self._alone(name):
            # Another process may have scanned it while this one waited.
            stored = self._read(name, stamp)
            if stored is None:
                stored = scan_tar(path)
                with contextlib.suppress(OSError):
                    self._write(name, stamp, stored)
        return stored

    def stored(self, name: str) -> TarIndex | None:
        """The stored index of a name, without checking the shard; None if there is none."""
        return self._read(name, None)

    def _alone(self, name: str) -> contextlib.AbstractContextManager[object]:
        """Lock that keeps other processes from scanning the same shard; no lock if the folder cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return contextlib.nullcontext()
        if not os.access(self.folder, os.W_OK):
            return contextlib.nullcontext()
        return exclusive(self.folder / f".lock-{zlib.crc32(name.encode()) % _STRIPES}")

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.npz"

    def _read(self, name: str, stamp: Stamp | None) -> TarIndex | None:
        try:
            with np.load(self._file(name), allow_pickle=False) as entries:
                about = entries["about"].tolist()
                if about[0] != _VERSION or (stamp is not None and tuple(about[1:3]) != stamp):
                    return None
                keys, labels, damage = (_lines(entries[part]) for part in ("keys", "labels", "damage"))
                offsets, sizes = entries["offsets"], entries["sizes"]
        except (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile):
            return None  # missing or damaged: the shard is scanned
        count = len(offsets)
        # In lists joined by line breaks, no entry and one empty entry look the same.
        keys, labels = keys[:count], labels[:count]
        return TarIndex(keys, offsets, sizes, labels, damage[0]) if count == len(sizes) == len(keys) else None

    def _write(self, name: str, stamp: Stamp, index: TarIndex) -> None:
        file = self._file(name)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as output:
                np.savez(
                    output,
                    about=np.array([_VERSION, *stamp], dtype=np.int64),
                    keys=_joined(index.keys),
                    labels=_joined(index.labels),
                    damage=_joined([index.damage]),
                    offsets=index.offsets,
                    sizes=index.sizes,
                )
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _joined(texts: list[str]) -> np.ndarray:
    # Bytes rather than a NumPy string array, in which every entry takes the space of the longest.
    text = "\n".join(text.replace("\n", " ") for text in texts)
    return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), dtype=np.uint8)


def _lines(array: np.ndarray) -> list[str]:
    return array.tobytes().decode("utf-8", errors="surrogateescape").split("\n")
