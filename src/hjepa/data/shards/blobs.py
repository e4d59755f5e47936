"""Images of many shards by index, and their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from hjepa.data.dataset import UnreadableShardError
from hjepa.data.shards.cache import FetchError, ShardCache
from hjepa.data.shards.index import IndexStore
from hjepa.data.shards.tar import TarIndex

# Attempts to open a shard: it may be dropped from the cache between download and opening, repeatedly if the cache is
# far too small.
_OPENINGS = 20


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    name: str
    """Path relative to the data set, for messages."""
    place: Path | str
    """Its location: a file, or a URL as text."""


@dataclass(frozen=True)
class Opened:
    """A shard that is available locally."""

    path: Path
    """The local file."""
    size: int
    """Size of the file in bytes."""
    index: TarIndex
    """Index of its samples."""


def open_shard(place: Path | str, store: IndexStore, cache: ShardCache | None) -> Opened:
    """Make a shard available locally, downloading it if needed, and read its index.

    Args:
        place: a file, or a URL as text.
        store: indexes of shards.
        cache: cache for downloads; required for URLs.

    Raises:
        FetchError: the shard cannot be downloaded.
        OSError: the shard cannot be read.
    """
    if isinstance(place, Path):
        return Opened(place, place.stat().st_size, store.of(place))
    assert cache is not None  # listings with URLs always have a cache
    for _ in range(_OPENINGS):
        path = cache.get(place)
        try:
            return Opened(path, path.stat().st_size, store.of(path, place))
        except FileNotFoundError:
            continue
    raise FetchError("is dropped from the cache before it can be read; raise data.cache_gib")


class ShardBlobs:
    """The encoded images of some shards, in the order of the shards.

    Args:
        shards: the shards.
        counts: number of samples of each shard.
        store: indexes of the shards.
        cache: cache for remote shards; None if all are local.
    """

    def __init__(
        self, shards: Sequence[Shard], counts: Sequence[int], store: IndexStore, cache: ShardCache | None
    ) -> None:
        self.shards = list(shards)
        self.starts = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
        self._store = store
        self._cache = cache
        self._opened: dict[int, Opened] = {}
        self._named: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        # Every process opens shards itself.
        return self.__dict__ | {"_opened": {}}

    def numbers(self) -> np.ndarray:
        """int64 [N]: the shard of every image."""
        return np.repeat(np.arange(len(self.shards)), np.diff(self.starts))

    def load(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            UnreadableShardError: the whole shard cannot be downloaded or read.
            OSError: the image cannot be read.
        """
        number, position = self.locate(index)
        for _ in range(_OPENINGS):
            try:
                opened = self._open(number)
                with opened.path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size == opened.size:
                        if self._cache is not None and isinstance(self.shards[number].place, str):
                            self._cache.used(opened.path)
                        return self._read(file, opened.index, number, position)
            except FileNotFoundError:
                pass  # dropped since it was downloaded
            # Replaced, or dropped and downloaded again.
            self._opened.pop(number, None)
        raise self._lost(number, "the shard keeps changing")

    def _read(self, file: BinaryIO, index: TarIndex, number: int, position: int) -> bytes:
        if position >= len(index):
            announced = int(self.starts[number + 1] - self.starts[number])
            raise OSError(None, f"the shard has {len(index)} samples, but the list says {announced}")
        size = int(index.sizes[position])
        if size < 0:
            raise OSError(None, "the sample has no image file")
        file.seek(int(index.offsets[position]))
        data = file.read(size)
        if len(data) < size:
            raise OSError(None, "truncated: the shard ends within the image")
        return data

    def locate(self, index: int) -> tuple[int, int]:
        """The number of an image's shard, and its position in the shard."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return number, index - int(self.starts[number])

    def key(self, index: int) -> str:
        """The key of an image, or ``#position`` if the shard has not been indexed yet."""
        number, position = self.locate(index)
        if self._named[0] != number:
            place = self.shards[number].place
            known = self._store.stored(str(place.absolute() if isinstance(place, Path) else place))
            # Cache the keys of one shard, as names are usually requested in order; retry a shard without an index.
            self._named = (number if known is not None else -1, [] if known is None else known.keys)
        keys = self._named[1]
        return keys[position] if position < len(keys) else f"#{position}"

    def fetch(self, number: int) -> None:
        """Download a remote shard before it is read. Raises `OSError`."""
        place = self.shards[number].place
        if isinstance(place, str) and self._cache is not None:
            self._cache.get(place)

    def _open(self, number: int) -> Opened:
        opened = self._opened.get(number)
        if opened is None:
            opened = self._opened[number] = self._find(number)
        return opened

    def _find(self, number: int) -> Opened:
        try:
            return open_shard(self.shards[number].place, self._store, self._cache)
        except FetchError as error:
            raise self._lost(number, f"the shard {error.strerror}") from None
        except FileNotFoundError:
            raise self._lost(number, "the shard is missing") from None
        except OSError as error:
            raise self._lost(number, f"the shard cannot be read: {error.strerror}") from None

    def _lost(self, number: int, reason: str) -> UnreadableShardError:
        return UnreadableShardError(reason, end=int(self.starts[number + 1]))


class ShardNames(Sequence[str]):
    """Names ``shard.tar!key`` of images, computed on access, so that millions of names need no memory.

    Args:
        blobs: the images.
        rows: int64, the images to name, in order; all if None.
    """

    def __init__(self, blobs: ShardBlobs, rows: np.ndarray | None = None) -> None:
        self._blobs = blobs
        self._rows = np.arange(len(blobs)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> ShardNames: ...
    def __getitem__(self, index: int | slice) -> str | ShardNames:
        if isinstance(index, slice):
            return ShardNames(self._blobs, self._rows[index])
        row = int(self._rows[index])
        return f"{self._blobs.shards[self._blobs.locate(row)[0]].name}!{self._blobs.key(row)}"

    def choose(self, rows: np.ndarray) -> ShardNames:
        """The names of the given rows, in that order."""
        return ShardNames(self._blobs, self._rows[rows])
