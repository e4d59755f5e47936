"""``parquet``: Parquet files in the Hugging Face image layout, local or from the hub.

The image column is a struct of ``bytes`` and ``path``, or plain binary; class names come from the ``huggingface``
entry of the schema's metadata. Encoded bytes lie in memory while the set is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.data.dataset import Division, EncodedPixels, Split
from hjepa.data.listing import Listing
from hjepa.data.sources.hub import fetch_parquet
from hjepa.data.sources.labels import sort_classes
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    import pyarrow

    from hjepa.config import DataConfig

_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
_LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "category")
_TRAIN = re.compile(r"train(?![a-z])", re.IGNORECASE)
_TEST = tuple(re.compile(rf"{name}(?![a-z])", re.IGNORECASE) for name in ("test", "validation", "valid", "val"))
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class ColumnBlobs:
    """The encoded images of some Parquet files.

    Args:
        files: the files, in order.
        column: name of the image column.
        counts: rows of each file.
    """

    def __init__(self, files: Sequence[Path], column: str, counts: Sequence[int]) -> None:
        self.files = files
        self.column = column
        self.counts = counts
        self._bytes: pyarrow.ChunkedArray | None = None
        self._paths: pyarrow.ChunkedArray | None = None

    def __len__(self) -> int:
        return sum(self.counts)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process that does not share memory reads the files itself; sending gigabytes would be slower.
        return self.__dict__ | {"_bytes": None, "_paths": None}

    def load(self, index: int) -> bytes:
        """The bytes of one image; a row without bytes names a file beside its Parquet file. Raises `OSError`."""
        if self._bytes is None:
            self._bytes, self._paths = self._read()
        data: bytes | None = self._bytes[index].as_py()
        if data is not None:
            return data
        name = None if self._paths is None else self._paths[index].as_py()
        if name is None:
            return b""
        return (self._file_of(index).parent / str(name)).read_bytes()

    def _file_of(self, index: int) -> Path:
        for file, count in zip(self.files, self.counts, strict=True):
            if index < count:
                return file
            index -= count
        raise IndexError(index)

    def _read(self) -> tuple[pyarrow.ChunkedArray, pyarrow.ChunkedArray | None]:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = pa.chunked_array(
            [chunk for file in self.files for chunk in _read_columns(file, [self.column])[self.column].chunks]
        )
        if not pa.types.is_struct(column.type):
            return column, None
        has_path = column.type.get_field_index("path") >= 0
        return pc.struct_field(column, "bytes"), pc.struct_field(column, "path") if has_path else None


def find(data: DataConfig, split: Split, path: Path) -> Listing:
    """List the rows of ``data.data_path``: a Parquet file, a folder of them, or ``user/name`` on the hub.

    In a folder, files named ``train*`` and ``test*`` (or ``validation*``, ``valid*``, ``val*``) are the splits; beside
    ``test*``, one of the other names holds the validation images. The split is drawn from the seed where there are no
    such files, and for a single file.

    Raises:
        UserError: no ``data.data_path``.
        DataError: nothing there, no Parquet, no image column, or files of different layouts.
    """
    if data.data_path is None:
        raise UserError(
            "data.data_path: needed for data.dataset=parquet; give a Parquet file, a folder of them, or user/name on "
            "the Hugging Face hub"
        )
    if not path.exists():
        if not _HUB_NAME.fullmatch(path.as_posix()):
            raise DataError(f"data.data_path: {path} does not exist; give a Parquet file or a folder of them")
        path = fetch_parquet(path.as_posix(), download=data.download)
    parts = _files(path)
    files = parts.get(split, parts["train"])
    others = [file for name, found in parts.items() if name != split for file in found] if "test" in parts else []
    tables = [_schema(file) for file in files]
    column, label = _image_column(files[0], tables[0][0]), _label_column(tables[0][0])
    for file, (schema, _) in zip(files, tables, strict=True):
        if column not in schema.names or (label is not None and label not in schema.names):
            raise DataError(f"{file}: has other columns than {files[0].name}; keep one layout under data.data_path")
    counts = [count for _, count in tables]
    root = path if path.is_dir() else path.parent
    train = parts["train"]
    identifiers = [
        f"{file.relative_to(root).as_posix()}/{row}" for file, n in zip(files, counts, strict=True) for row in range(n)
    ]
    labels, names = (None, None) if label is None else _labels(files, others, label, tables[0][0])
    return Listing(
        EncodedPixels(ColumnBlobs(files, column, counts)),
        identifiers,
        labels,
        names,
        whole=not others,
        root=path,
        # The first file only, so that the test split does not bring all training images into memory.
        sample=EncodedPixels(ColumnBlobs(train[:1], column, [_schema(train[0])[1]])),
        description=f"parquet {data.data_path.name}",
        division=Division(own_validation="validation" in parts),
    )


def _files(path: Path) -> dict[str, list[Path]]:
    """The files of each split; all of them under ``"train"`` where the set is still to be divided."""
    if path.is_file():
        return {"train": [path]}
    files = sorted(
        file for file in path.rglob("*.parquet") if not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    if not files:
        raise DataError(f"data.data_path: no .parquet files in {path}; give a Parquet file or a folder of them")
    train = [file for file in files if _TRAIN.match(file.name)]
    held = [[file for file in files if pattern.match(file.name)] for pattern in _TEST]
    there = [found for found in held if found]
    folders = sorted({file.parent for file in train})
    if len(folders) > 1:
        raise DataError(
            f"data.data_path: train files lie in several folders ({', '.join(map(str, folders[:5]))}); give one"
        )
    if not (train and there):
        return {"train": train or files}
    parts = {"train": train, "test": there[0]}
    # What is called validation holds test images unless others are called so.
    return parts | ({"validation": there[1]} if held[0] and len(there) > 1 else {})


def _schema(file: Path) -> tuple[pyarrow.Schema, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        return parquet.schema_arrow, parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _read_columns(file: Path, columns: list[str]) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ParquetFile rather than read_table, which would take folder names such as `split=train` for columns.
        return pq.ParquetFile(file).read(columns=columns)
    except pa.ArrowMemoryError:
        raise DataError(
            f"{file}: its encoded images do not fit into memory; unpack them into a folder of files"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())}); fetch or write it again")


def _image_column(file: Path, schema: pyarrow.Schema) -> str:
    import pyarrow as pa

    def binary(kind: pyarrow.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    found: list[str] = [
        field.name
        for field in schema
        if binary(field.type)
        or (
            pa.types.is_struct(field.type)
            and field.type.get_field_index("bytes") >= 0
            and binary(field.type.field("bytes").type)
        )
    ]
    for name in (*_IMAGE_NAMES, *found):
        if name in found:
            return name
    raise DataError(
        f"{file}: no image column among {', '.join(schema.names)}; a struct with the field bytes, or binary, is needed"
    )


def _label_column(schema: pyarrow.Schema) -> str | None:
    return next((name for name in _LABEL_NAMES if name in schema.names), None)


def _labels(
    files: Sequence[Path], others: Sequence[Path], column: str, schema: pyarrow.Schema
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of ``files``; all splits decide the numbering, so that a label means the same in each."""
    import pyarrow as pa

    values = [value for file in files for value in _read_columns(file, [column])[column].to_pylist()]
    every = {*values}.union(*(_read_columns(file, [column])[column].unique().to_pylist() for file in others))
    if pa.types.is_integer(schema.field(column).type):
        labels = torch.tensor([-1 if value is None else max(-1, value) for value in values], dtype=torch.int64)
        names = _class_names(schema, column)
        highest = max((value for value in every if value is not None), default=-1)
        if names is None:
            names = tuple(str(label) for label in range(highest + 1))
        if highest >= len(names):
            raise DataError(
                f"{files[0]}: label {highest} in column {column!r}, but the metadata names {len(names)} classes; "
                "correct one of them"
            )
        return labels, names
    if not all(value is None or isinstance(value, str) for value in every):
        kind = schema.field(column).type
        raise DataError(f"{files[0]}: column {column!r} holds {kind}; labels must be whole numbers or text")
    texts = sort_classes({value for value in every if value is not None})
    number = {text: label for label, text in enumerate(texts)}
    return torch.tensor([number.get(value, -1) for value in values], dtype=torch.int64), tuple(texts)


def _class_names(schema: pyarrow.Schema, column: str) -> tuple[str, ...] | None:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata["info"]["features"][column]["names"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None  # written by something else than the datasets library: numbers do for names
    return tuple(str(name) for name in names)
