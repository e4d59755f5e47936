"""Find the shards of a data set: in a folder, or by a brace pattern or a list, local or on the web."""

from __future__ import annotations

import itertools
import json
import os
import posixpath
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hjepa.data.shards.blobs import Shard
from hjepa.data.shards.cache import FetchError, ShardCache
from hjepa.data.split_names import TEST_WORDS, UNLABELLED, choose_splits, is_train, split_of_path
from hjepa.errors import DataError

LIST_NAME = "shards.json"
"""File name of the list of shards that `hjepa data shard` writes."""

_ADDRESS = re.compile(r"^(https?):/+", re.IGNORECASE)
_OTHER_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# A pattern for more shards than this is almost certainly a typo in the range.
_MOST = 1_000_000


@dataclass(frozen=True)
class Entry:
    """A shard with what is known about it in advance."""

    shard: Shard
    """Name and location."""
    count: int | None = None
    """Number of samples, if a list gives it."""
    labels: tuple[str, ...] | None = None
    """Labels of the samples as text, if a list gives them."""
    split: str | None = None
    """The split word, of `hjepa.data.split_names`, if known."""


@dataclass(frozen=True)
class Catalogue:
    """All shards of a data set."""

    entries: tuple[Entry, ...]
    """In order."""
    class_names: tuple[str, ...] | None = None
    """In the order of labels, if a list gives them."""

    def divided(self) -> dict[str, list[Entry]]:
        """Shards by split, as chosen by `hjepa.data.split_names.choose_splits`.

        All shards are under ``"train"`` if test is to be drawn from them.
        """
        held = {word: [entry for entry in self.entries if entry.split == word] for word in TEST_WORDS}
        words = [word for word, entries in held.items() if entries]
        train = [entry for entry in self.entries if is_train(entry.split)]
        train = train or [entry for entry in self.entries if entry.split is None]
        # Whether splits have labels is unknown before remote shards are downloaded.
        test, validation = choose_splits(words, [UNLABELLED] * len(words))
        if not train or test is None:
            return {"train": list(self.entries)}
        parts = {"train": train, "test": held[words[test]]}
        return parts if validation is None else parts | {"validation": held[words[validation]]}


def read_catalogue(given: Path, cache: ShardCache) -> Catalogue:
    """Find the shards of ``data.data_path``.

    * a folder: all ``*.tar`` files below it, or those listed in its ``shards.json``;
    * a ``.tar`` file, or a pattern of several such as ``shard-{000000..000127}.tar``;
    * a list: ``.json`` with ``shardlist`` (entries with ``url`` and optionally ``nsamples``), or ``.txt`` with one
      shard per line; paths are relative to the list.

    All except the folder can be a URL (http, https). The split of a shard is given by its name or the folders in its
    path (``train``; ``test``, ``val``, ``dev`` and others, see `hjepa.data.split_names`).

    Args:
        given: ``data.data_path``.
        cache: cache for downloads.

    Raises:
        DataError: no shards are found, or a list has the wrong format.
    """
    path = _as_given(given)
    if isinstance(path, Path) and path.is_dir():
        if (path / LIST_NAME).is_file():
            return _from_list(path / LIST_NAME, cache)
        return Catalogue(tuple(_named(_walk(path), str(path))))
    if str(path).endswith((".json", ".txt")):
        return _from_list(path, cache)
    places = [_as_given(Path(text)) for text in expand(str(path))]
    for place in places:
        if isinstance(place, Path) and not place.is_file():
            raise DataError(
                f"data.data_path: {place} does not exist; give a folder of .tar files, a pattern such as "
                "shard-{000000..000127}.tar, or a list of shards (.json or .txt)"
            )
    return Catalogue(tuple(_named(places, "")))


def expand(pattern: str) -> list[str]:
    """Expand a brace pattern: ``{00..12}`` is a range with leading zeros, ``{a,b}`` a list of alternatives.

    Raises:
        DataError: a descending range, or more than a million shards.
    """
    parts: list[Sequence[str]] = []
    total = 1
    for number, part in enumerate(_BRACES.split(pattern)):
        choices: Sequence[str] = [part]
        if number % 2:
            choices = part.split(",")
            counted = _RANGE.fullmatch(part)
            if counted:
                first, last = int(counted[1]), int(counted[2])
                if not first <= last < first + _MOST:
                    raise DataError(f"data.data_path: invalid range {{{part}}} in {pattern}; give {{first..last}}")
                choices = [f"{value:0{len(counted[1])}d}" for value in range(first, last + 1)]
        total *= len(choices)
        if total > _MOST:
            raise DataError(f"data.data_path: {pattern} expands to {total} shards or more; correct its ranges")
        parts.append(choices)
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _as_given(path: Path) -> Path | str:
    """The path, or the URL as text: `Path` collapses the ``//`` after the scheme, which is restored here."""
    text = path.as_posix()
    if _ADDRESS.match(text):
        return _ADDRESS.sub(lambda found: f"{found[1].lower()}://", text)
    other = _OTHER_ADDRESS.match(text)
    if other and not path.exists() and len(other[1]) > 1:
        raise DataError(
            f"data.data_path: {other[1]}: URLs are not supported; give an https:// URL, or mount the storage and give a path"
        )
    return path


def _walk(root: Path) -> list[Path | str]:
    found: list[Path | str] = []
    for folder, below, files in os.walk(root, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(folder) / name for name in sorted(files) if name.endswith(".tar") and not name.startswith(".")]
    if not found:
        raise DataError(f"data.data_path: no .tar files in {root}; give a folder of WebDataset shards")
    return found


def _named(places: Sequence[Path | str], root: str) -> Iterator[Entry]:
    """Entries named by their paths relative to ``root``, or to their common folder if ``root`` is empty."""
    texts = [place.as_posix() if isinstance(place, Path) else place for place in places]
    names = [PurePosixPath(t).relative_to(Path(root).as_posix()).as_posix() for t in texts] if root else _short(texts)
    for place, name in zip(places, names, strict=True):
        yield Entry(Shard(name, place), split=split_of_path(name))


def _short(texts: Sequence[str]) -> list[str]:
    """Paths relative to their common folder."""
    paths = [PurePosixPath(text) for text in texts]
    if len({path.is_absolute() for path in paths}) > 1:
        return [str(path) for path in paths]
    common = posixpath.commonpath([str(path.parent) for path in paths])
    return [str(path.relative_to(common)) if common else str(path) for path in paths]


def _from_list(path: Path | str, cache: ShardCache) -> Catalogue:
    try:
        # Always download a list anew: it is short and may have changed.
        file = path if isinstance(path, Path) else cache.get_again(path)
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"data.data_path: {path} does not exist; give a list of shards") from None
    except FetchError as error:
        raise DataError(f"data.data_path: {path} {error.strerror}; check the URL and the network") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.data_path: {path} cannot be read as text ({error}); give a list of shards") from None
    class_names = None
    if str(path).endswith(".txt"):
        rows: list[Any] = [{"url": line.strip()} for line in text.splitlines() if line.strip()]
    else:
        rows, class_names = _parse(path, text)
    for row in rows:
        if not _fits(row):
            raise DataError(
                f"data.data_path: {path} has an invalid entry {json.dumps(row)[:80]}; each needs a url, nsamples must be a "
                "whole number, and labels a list of that length"
            )
    if not rows:
        raise DataError(f"data.data_path: {path} lists no shards")
    names = _short([row["url"] for row in rows])
    return Catalogue(tuple(_entry(path, row, name) for row, name in zip(rows, names, strict=True)), class_names)


def _parse(path: Path | str, text: str) -> tuple[list[Any], tuple[str, ...] | None]:
    try:
        tree = json.loads(text)
        rows = tree if isinstance(tree, list) else tree["shardlist"]
        names = None if isinstance(tree, list) else tree.get("class_names")
        if isinstance(rows, list) and (names is None or all(isinstance(name, str) for name in names)):
            return rows, None if names is None else tuple(names)
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f'data.data_path: {path} is not a list of shards; expected {{"shardlist": [{{"url": ..., "nsamples": ...}}]}}'
    )


def _fits(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("url"), str):
        return False
    count, labels, split = row.get("nsamples"), row.get("labels"), row.get("split")
    counted = count is None or (isinstance(count, int) and count >= 0)
    labelled = labels is None or (isinstance(labels, list) and len(labels) == count)
    return counted and labelled and (split is None or isinstance(split, str))


def _entry(path: Path | str, row: dict[str, Any], name: str) -> Entry:
    url, labels = row["url"], row.get("labels")
    place: Path | str
    if _ADDRESS.match(url):
        place = url
    elif isinstance(path, str):
        place = urllib.parse.urljoin(path, url)
    else:
        place = path.parent / url
    texts = None if labels is None else tuple("" if label is None else str(label) for label in labels)
    return Entry(Shard(name, place), row.get("nsamples"), texts, row.get("split") or split_of_path(name))
