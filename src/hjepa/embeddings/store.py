"""Files of embeddings: Parquet with path, label and embedding, or NumPy with two files beside it."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa.embeddings.encoding import Encoding, directions
from hjepa.errors import UserError
from hjepa.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT = 1
_KEY = b"hjepa.embeddings"
SUFFIXES = (".parquet", ".npy")


@dataclass(frozen=True)
class About:
    """What a file of embeddings says about itself.

    Attributes:
        encoding: which level, and how it was pooled.
        model: ``name``, ``digest`` of its weights, ``step``.
        preprocess: `hjepa.data.images.preprocess.Preprocess.as_dict`, with the normalisation of the images.
        images: where they were found (``dataset``, ``data_path``), their ``digest`` and ``count``; ``left_out`` could
            not be read.
    """

    encoding: Encoding
    model: dict[str, Any]
    preprocess: dict[str, Any]
    images: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "hjepa": __version__,
            **self.encoding.as_dict(),
            "model": self.model,
            "preprocess": self.preprocess,
            "images": self.images,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], file: Path) -> About:
        """What `as_dict` described. Raises `UserError` if it is of a newer format or incomplete."""
        try:
            if int(values["format"]) > FORMAT:
                raise UserError(f"{file}: written by a newer hjepa (format {values['format']}); update hjepa")
            return cls(Encoding.from_dict(values), values["model"], values["preprocess"], values["images"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{file}: its description is incomplete ({error}); write it again with hjepa embed"
            ) from None


@dataclass(frozen=True)
class Embeddings:
    """Embeddings that are read in blocks, so that they need not fit into memory.

    Attributes:
        about: what they are.
        paths: path of each image.
        labels: name of its class; None if no image has one.
        features: float32 [N, dimensions], mapped from a file.
    """

    about: About
    paths: Sequence[str]
    labels: Sequence[str | None] | None
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.paths)

    def directions(self, start: int, stop: int, device: torch.device) -> Tensor:
        """`hjepa.embeddings.encoding.directions` of some rows."""
        block = torch.from_numpy(np.array(self.features[start:stop]))
        return directions(block.to(device), self.about.encoding)

    def label(self, row: int) -> str | None:
        """Name of the class of an image; None without one."""
        return None if self.labels is None else self.labels[row]


def schema(dimensions: int, labelled: bool, about: dict[str, Any] | None = None) -> pa.Schema:
    """Columns of a file: ``path``, ``label`` if any image has one, ``embedding``."""
    import pyarrow as pa

    fields = [pa.field("path", pa.string(), nullable=False)]
    if labelled:
        fields.append(pa.field("label", pa.string()))
    fields.append(pa.field("embedding", pa.list_(pa.float32(), dimensions), nullable=False))
    return pa.schema(fields, metadata=None if about is None else {_KEY: json.dumps(about)})


def table(paths: Sequence[str], labels: Sequence[str | None] | None, features: Tensor) -> pa.Table:
    """Rows of a file.

    Args:
        paths: N of them.
        labels: names of classes; None without labels.
        features: float32 [N, D].
    """
    import pyarrow as pa

    dimensions = features.shape[1]
    flat = pa.array(features.contiguous().numpy().reshape(-1), type=pa.float32())
    columns = [pa.array(paths, type=pa.string())]
    if labels is not None:
        columns.append(pa.array(labels, type=pa.string()))
    columns.append(pa.FixedSizeListArray.from_arrays(flat, dimensions))
    return pa.table(columns, schema=schema(dimensions, labels is not None))


def side_files(output: Path) -> list[Path]:
    """Files beside a NumPy file: paths and labels as CSV, and the description as JSON; none beside Parquet."""
    return [output.with_suffix(".csv"), output.with_suffix(".json")] if output.suffix == ".npy" else []


def join(output: Path, parts: Sequence[Path], about: About, labelled: bool, rows: int) -> None:
    """Join parts to one file, with one part in memory at a time. The file appears once it is complete.

    Raises:
        OSError: it cannot be written.
    """
    temporary = output.with_name(f".{output.name}.new")
    try:
        if output.suffix == ".parquet":
            _join_parquet(temporary, parts, about, labelled)
        else:
            _join_numpy(temporary, output, parts, about, labelled, rows)
        temporary.replace(output)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _join_parquet(temporary: Path, parts: Sequence[Path], about: About, labelled: bool) -> None:
    import pyarrow.parquet as pq

    columns = schema(about.encoding.dimensions, labelled, about.as_dict())
    with pq.ParquetWriter(
        temporary, columns, compression="zstd", use_dictionary=["label"] if labelled else False
    ) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part).replace_schema_metadata(columns.metadata))


def _join_numpy(temporary: Path, output: Path, parts: Sequence[Path], about: About, labelled: bool, rows: int) -> None:
    import pyarrow.parquet as pq

    listing, description = side_files(output)
    features = np.lib.format.open_memmap(
        temporary, mode="w+", dtype=np.float32, shape=(rows, about.encoding.dimensions)
    )
    _reserve(temporary)
    at = 0
    with listing.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file)
        write.writerow(["path", "label"] if labelled else ["path"])
        for part in parts:
            block = pq.read_table(part)
            features[at : at + len(block)] = _matrix(block)
            at += len(block)
            write.writerows(zip(*(block[name].to_pylist() for name in block.column_names[:-1]), strict=True))
    features.flush()
    del features
    description.write_text(json.dumps(about.as_dict(), indent=2) + "\n", encoding="utf-8")


def _reserve(file: Path) -> None:
    """Take the disk space of a new memory map, which has none yet: writing to it on a full disk would end the program.

    Raises:
        OSError: there is not enough.
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _matrix(block: pa.Table) -> NDArray[np.float32]:
    """The embeddings of a table, [N, D]."""
    column = block["embedding"].combine_chunks()
    matrix: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(block), -1)
    return matrix


def is_embeddings(path: Path) -> bool:
    """Whether a file was written by ``hjepa embed``, rather than being a Parquet file of images."""
    if path.suffix == ".npy" and path.is_file():
        return side_files(path)[1].is_file()
    if path.suffix != ".parquet" or not path.is_file():
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


@contextlib.contextmanager
def open_embeddings(path: Path) -> Iterator[Embeddings]:
    """Open a file of ``hjepa embed``.

    The embeddings of a Parquet file are copied to a temporary file, from which blocks are read in any order.

    Raises:
        UserError: it is damaged, or a file beside it is missing.
    """
    if path.suffix == ".npy":
        yield _open_numpy(path)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="hjepa-") as folder:
        try:
            opened = _copy_parquet(pq.ParquetFile(path), path, Path(folder) / "features.npy")
        except (pa.ArrowException, OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise UserError(f"{path}: no space for a copy in {folder}; make room, or set TMPDIR") from None
            raise _damaged(path, error) from None
        yield opened


def _copy_parquet(parquet: pq.ParquetFile, path: Path, copy: Path) -> Embeddings:
    about = About.from_dict(json.loads(parquet.schema_arrow.metadata[_KEY]), path)
    names = parquet.read(columns=[name for name in parquet.schema_arrow.names if name != "embedding"])
    shape = (parquet.metadata.num_rows, about.encoding.dimensions)
    features = np.lib.format.open_memmap(copy, mode="w+", dtype=np.float32, shape=shape)
    _reserve(copy)
    at = 0
    for group in range(parquet.metadata.num_row_groups):
        block = _matrix(parquet.read_row_group(group, columns=["embedding"]))
        features[at : at + len(block)] = block
        at += len(block)
    labels = names["label"].to_pylist() if "label" in names.column_names else None
    return Embeddings(about, names["path"].to_pylist(), labels, features)


def _open_numpy(path: Path) -> Embeddings:
    listing, description = side_files(path)
    for file in (listing, description):
        if not file.is_file():
            raise UserError(f"{path}: {file.name} is missing beside it; write it again with hjepa embed")
    try:
        values, features = json.loads(description.read_text(encoding="utf-8")), np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    about = About.from_dict(values, description)
    with listing.open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    if len(rows) != len(features):
        raise UserError(
            f"{path}: {len(features)} embeddings, but {len(rows)} paths in {listing.name}; write it again with hjepa embed"
        )
    labels = [row["label"] or None for row in rows] if rows and "label" in rows[0] else None
    return Embeddings(about, [row["path"] for row in rows], labels, features)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); write it again with hjepa embed")
