"""Index of the samples in a tar file, made by reading its headers once.

In the WebDataset layout a sample is a run of files that share a key: the path up to the first dot of the file name.
``0017.jpg`` and ``0017.cls`` are the image and the label of the sample ``0017``.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hjepa.data.images.decode import SUFFIXES, picture_suffixes

_LABEL_LIMIT = 1 << 20
_LABEL_KEYS = ("label", "cls", "class")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar file."""

    keys: list[str]
    """Their keys, in the order of the file."""
    offsets: np.ndarray
    """int64 [N]: offset of each image in the file, in bytes."""
    sizes: np.ndarray
    """int64 [N]: size of each image in bytes, -1 for a sample without an image."""
    labels: list[str]
    """Labels as text, empty for none."""
    damage: str = ""
    """Damage to the file, if any; samples after it are not listed."""

    def __len__(self) -> int:
        return len(self.keys)


class _Sample:
    def __init__(self, key: str) -> None:
        self.key = key
        self.image: tarfile.TarInfo | None = None
        self.usual = False
        self.files: dict[str, tarfile.TarInfo] = {}


def scan_tar(path: Path) -> TarIndex:
    """Read the headers and labels of a tar file.

    A label is the text of the sample's ``.cls`` file, or the entry ``label`` (``cls``, ``class``) of its ``.json``
    file.

    Raises:
        OSError: the file cannot be read at all.
    """
    samples: list[_Sample] = []
    with path.open("rb") as headers, path.open("rb") as content:
        damage = _kind(content)
        if not damage:
            try:
                with tarfile.open(fileobj=headers, mode="r:") as archive:
                    _collect(archive, samples)
                    damage = _ending(archive.offset, content)
            except (OSError, MemoryError):
                raise
            except Exception as error:
                # The reader raises many types for damaged headers: ReadError, ValueError, UnicodeDecodeError...
                damage = " ".join(str(error).split()) or type(error).__name__
        return TarIndex(
            [sample.key for sample in samples],
            np.array([0 if s.image is None else s.image.offset_data for s in samples], dtype=np.int64),
            np.array([-1 if s.image is None else s.image.size for s in samples], dtype=np.int64),
            [_label(sample, content) for sample in samples],
            damage,
        )


def _kind(content: BinaryIO) -> str:
    start = content.read(8)
    if not start:
        return "empty file"
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return f"compressed with {name}, so single images cannot be accessed; unpack it to a plain .tar"
    return ""


def _collect(archive: tarfile.TarFile, samples: list[_Sample]) -> None:
    """Append samples while reading headers, so that those before a damaged header are kept."""
    while (member := archive.next()) is not None:
        key, extension = split_name(member.name)
        if not member.isreg() or member.sparse is not None or not key:
            continue
        if not samples or samples[-1].key != key:
            samples.append(_Sample(key))
        sample = samples[-1]
        sample.files.setdefault(extension, member)
        suffix = f".{extension.rpartition('.')[2]}"
        # A common suffix takes precedence over rare ones, which may also mean something other than an image.
        if suffix in picture_suffixes() and (sample.image is None or (suffix in SUFFIXES and not sample.usual)):
            sample.image, sample.usual = member, suffix in SUFFIXES


def split_name(name: str) -> tuple[str, str]:
    """Key and extension (in lower case) of a file in a shard; both empty for files that belong to no sample."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if not stem or not dot or stem.startswith("__"):
        return "", ""
    return f"{folder}{slash}{stem}", extension.lower()


def _ending(end: int, content: BinaryIO) -> str:
    """Damage at the end of the file, as text: tarfile treats a damaged or missing header as a regular end."""
    content.seek(end)
    block = content.read(tarfile.BLOCKSIZE)
    if len(block) == tarfile.BLOCKSIZE and not any(block):
        return ""
    return f"damaged at byte {end}" if block else "truncated: the end-of-archive marker is missing"


def _label(sample: _Sample, content: BinaryIO) -> str:
    if (member := sample.files.get("cls")) is not None and member.size <= _LABEL_LIMIT:
        return _text(content, member).strip()
    if (member := sample.files.get("json")) is not None and member.size <= _LABEL_LIMIT:
        try:
            told = json.loads(_text(content, member))
        except ValueError:
            return ""
        for name in _LABEL_KEYS if isinstance(told, dict) else ():
            value = told.get(name)
            if isinstance(value, (int, str)) and not isinstance(value, bool):
                return str(value).strip()
    return ""


def _text(content: BinaryIO, member: tarfile.TarInfo) -> str:
    content.seek(member.offset_data)
    return " ".join(content.read(member.size).decode("utf-8", errors="replace").split("\n"))
