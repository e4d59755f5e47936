"""``webdataset``: tar shards in the WebDataset layout, local or on the web."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import BadFile, Division, EncodedPixels, Shards, Split
from hjepa.data.listing import Listing, Note
from hjepa.data.shards.blobs import ShardBlobs, ShardNames, open_shard
from hjepa.data.shards.cache import FetchError, ShardCache
from hjepa.data.shards.catalogue import Entry, read_catalogue
from hjepa.data.shards.index import IndexStore
from hjepa.data.sources.labels import sort_classes
from hjepa.data.sources.walk import listed
from hjepa.data.wording import is_or_are, quantity
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig

log = logging.getLogger("hjepa")

# Reading tar headers takes many small reads, which network file systems serve in parallel.
_THREADS = 8
# Shards that determine the number of channels, if shards have to be downloaded.
_SAMPLE = 2


def find(data: DataConfig, split: Split, path: Path) -> Listing:
    """List the samples of the shards at ``data.data_path``; see `hjepa.data.shards.catalogue.read_catalogue`.

    Local shards are indexed on first use. Remote shards are too if no list gives their number of samples, which
    requires downloading each of them once.

    Raises:
        UserError: ``data.data_path`` is not set, or there is no folder for the cache.
        DataError: no shards are found, or a remote shard cannot be downloaded.
    """
    if data.data_path is None:
        raise UserError(
            "data.data_path: required for data.dataset=webdataset; give a folder of .tar files, a pattern such as "
            "shard-{000000..000127}.tar, a list of shards, or the URL of a pattern or list"
        )
    folder = cache_folder(data.cache_dir)
    cache = ShardCache(folder / "shards", round(data.cache_gib * 2**30))
    store = IndexStore(folder / "indexes")
    catalogue = read_catalogue(path, cache)
    parts = catalogue.divided()
    used = {entry.shard.name for entries in parts.values() for entry in entries}
    unused = [entry.shard.name for entry in catalogue.entries if entry.shard.name not in used]
    found = {name: _look(entries, cache, store, data) for name, entries in parts.items()}
    name = split if split in parts else "train"
    mine, here, train = parts[name], found[name], parts["train"]
    there = [shard for other, shards in found.items() if other != name for shard in shards]
    counts = [found.count for found in here]
    blobs = ShardBlobs([entry.shard for entry in mine], counts, store, cache)
    labels, names = _labels(here, there, catalogue.class_names)
    shards = Shards(blobs.numbers(), fetched=any(isinstance(entry.shard.place, str) for entry in mine))
    sample = blobs
    if name != "train":
        sample = ShardBlobs([e.shard for e in train], [f.count for f in found["train"]], store, cache)
    return Listing(
        EncodedPixels(blobs),
        ShardNames(blobs),
        labels,
        names,
        whole="test" not in parts,
        root=path,
        sample=_sample(sample, fetched=any(isinstance(entry.shard.place, str) for entry in train)),
        description=f"webdataset {path.name}",
        shards=shards,
        division=Division(own_validation="validation" in parts),
        notes=(
            Note(
                f"{quantity(len(unused), 'shard')} of other splits {is_or_are(len(unused))} not used: {listed(unused)}"
            ),
        )
        if unused
        else (),
        bad_files=tuple(BadFile(e.shard.name, f.damage) for e, f in zip(mine, here, strict=True) if f.damage),
    )


def cache_folder(given: Path | None) -> Path:
    """The folder for downloaded shards and indexes: ``data.cache_dir``, or ``hjepa`` in the user's cache folder."""
    if given is not None:
        return given
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "hjepa"
    except RuntimeError:
        raise UserError(
            "data.cache_dir: there is no home folder for the indexes of shards; set data.cache_dir"
        ) from None


class _Found:
    """Number of samples, labels and damage of a shard, known before its images are read."""

    def __init__(self, count: int, labels: Sequence[str], damage: str = "") -> None:
        self.count = count
        self.labels = labels
        self.damage = damage


def _look(entries: Sequence[Entry], cache: ShardCache, store: IndexStore, data: DataConfig) -> list[_Found]:
    unknown = [entry for entry in entries if isinstance(entry.shard.place, str) and entry.count is None]
    new = [entry for entry in unknown if store.stored(str(entry.shard.place)) is None]
    if new and not data.download:
        raise DataError(
            f"data.data_path: {new[0].shard.place} has not been downloaded, and data.download=false; set "
            "data.download=true, or give a list of shards with nsamples"
        )
    if new:
        log.info(
            "downloading %s to count the samples; a list of shards with nsamples would avoid this",
            quantity(len(new), "shard"),
        )

    def look(entry: Entry) -> _Found:
        place = entry.shard.place
        if isinstance(place, str) and entry.count is not None:
            return _Found(entry.count, entry.labels or [""] * entry.count)
        try:
            index = store.stored(place) if isinstance(place, str) else None
            if index is None:
                index = open_shard(place, store, cache).index
        except FetchError as error:
            raise DataError(f"{place}: the shard {error.strerror}; check data.data_path and the network") from None
        except FileNotFoundError:
            raise DataError(f"{place}: the shard does not exist; correct data.data_path") from None
        except OSError as error:
            raise DataError(f"{place}: the shard cannot be read ({error.strerror}); make it readable") from None
        return _Found(len(index), index.labels, index.damage)

    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return list(pool.map(look, entries))


def _sample(blobs: ShardBlobs, *, fetched: bool) -> EncodedPixels:
    rows = torch.arange(int(blobs.starts[min(_SAMPLE, len(blobs.shards))])) if fetched else None
    return EncodedPixels(blobs, rows=rows)


def _labels(
    here: Sequence[_Found], there: Sequence[_Found], names: tuple[str, ...] | None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels and class names of this split, with classes numbered over all splits together."""
    texts = np.array([label for found in here for label in found.labels], dtype=object)
    values = {label for found in (*here, *there) for label in found.labels} - {""}
    if not values:
        return None, None
    if names is None:
        names = tuple(sort_classes(values))
        number = {name: label for label, name in enumerate(names)}
    else:
        # If a list names the classes, whole numbers are indices into it, even if a class has such a name.
        number = {name: i for i, name in enumerate(names)} | {str(label): label for label in range(len(names))}
        unknown = sorted(values - number.keys())
        if unknown:
            raise DataError(
                f"data.data_path: label {unknown[0]!r} is not among the {len(names)} class_names of the list; correct one "
                "of them"
            )
    labels = torch.from_numpy(np.array([number.get(text, -1) for text in texts], dtype=np.int64))
    return labels, names
