"""``parquet``: Parquet files in the Hugging Face image layout, local or from the hub.

The image column is a struct of ``bytes`` and ``path``, or plain binary; class names come from the ``huggingface``
entry of the schema's metadata. The encoded images of a split are held in memory.
"""

from __future__ import annotations

import bisect
import fnmatch
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.data.dataset import Division, EncodedPixels, Split
from hjepa.data.listing import Listing, Note
from hjepa.data.sources.hub import fetch_parquet
from hjepa.data.sources.parquet_labels import label_columns, read_labels
from hjepa.data.sources.walk import listed
from hjepa.data.split_names import (
    LABELLED,
    TEST_WORDS,
    UNLABELLED,
    choose_splits,
    folder_of_splits,
    is_train,
    split_of_path,
)
from hjepa.data.wording import is_or_are, quantity
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    import pyarrow

    from hjepa.config import DataConfig

_IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
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
        # Do not pickle gigabytes: a worker process that does not share memory reads the files itself.
        return self.__dict__ | {"_bytes": None, "_paths": None}

    def load(self, index: int) -> bytes:
        """The bytes of one image, or of the file beside the Parquet file if the row has a path only. Raises
        `OSError`."""
        if self._bytes is None:
            self._bytes, self._paths = self._read()
        data: bytes | None = self._bytes[index].as_py()
        if data is not None:
            return data
        name = None if self._paths is None else self._paths[index].as_py()
        if name is None:
            return b""
        return (self._file_of(index).parent / str(name)).read_bytes()

    def in_order(self) -> OrderedColumnBlobs:
        """The same images with one row group in memory at a time, for reading them in order."""
        return OrderedColumnBlobs(self.files, self.column)

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


class OrderedColumnBlobs:
    """The encoded images of some Parquet files; only the row group that was read last is kept in memory.

    Args:
        files: the files, in order.
        column: name of the image column.
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self.files = files
        self.column = column
        self._groups: list[tuple[Path, int]] = []
        starts = [0]
        for file in files:
            parquet = _open(file)
            for group in range(parquet.metadata.num_row_groups):
                self._groups.append((file, group))
                starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
        self._starts = starts
        self._held: tuple[int, pyarrow.ChunkedArray] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}

    def load(self, index: int) -> bytes:
        """The bytes of one image, or of the file beside the Parquet file if the row has a path only. Raises
        `OSError`."""
        import pyarrow as pa

        number = bisect.bisect_right(self._starts, index) - 1
        if self._held is None or self._held[0] != number:
            file, group = self._groups[number]
            try:
                self._held = number, _open(file).read_row_group(group, columns=[self.column])[self.column]
            except (pa.ArrowException, OSError) as error:
                raise OSError(0, " ".join(str(error).split())) from None
        value = self._held[1][index - self._starts[number]].as_py()
        if isinstance(value, dict):
            if value["bytes"] is None and value.get("path") is not None:
                return (self._groups[number][0].parent / str(value["path"])).read_bytes()
            value = value["bytes"]
        data: bytes = b"" if value is None else value
        return data


def find(data: DataConfig, split: Split, path: Path) -> Listing:
    """List the rows of ``data.data_path``: a Parquet file, a folder of them, or ``user/name`` on the hub.

    In a folder, the split of a file is given by its name, or else by the nearest parent folder
    (``train-00000-of-00002.parquet``, ``default/test/0000.parquet``, ``my-val.parquet``). Files named for validation
    are the validation split if there are test files, and the test split otherwise. If no name gives a split, or for a
    single file, test is drawn from the seed.

    Raises:
        UserError: ``data.data_path`` is not set.
        DataError: the path does not exist, is not Parquet, has no image column, or its files differ in layout.
    """
    if data.data_path is None:
        raise UserError(
            "data.data_path: required for data.dataset=parquet; give a Parquet file, a folder of them, or user/name on "
            "the Hugging Face hub"
        )
    if not path.exists():
        if not _HUB_NAME.fullmatch(path.as_posix()):
            raise DataError(f"data.data_path: {path} does not exist; give a Parquet file or a folder of them")
        path = fetch_parquet(path.as_posix(), download=data.download)
    train, tests, notes = _splits(path, data.exclude)
    schema, _ = _schema(train[0])
    column, labels = _image_column(train[0], schema), label_columns(schema)
    label = labels[0] if labels else None
    parts, more = _choose(train, tests, label)
    notes += more
    name = split if split in parts else "train"
    files, others = parts[name], [file for other, found in parts.items() if other != name for file in found]
    counts = [_count(file, column, label if file in train else None, train[0]) for file in files]
    root = path if path.is_dir() else path.parent
    identifiers = [
        f"{file.relative_to(root).as_posix()}/{row}" for file, n in zip(files, counts, strict=True) for row in range(n)
    ]
    numbers, names = None, None
    if label is not None:
        if len(labels) > 1:
            notes.append(
                Note(f"reading labels from column {label}; ignoring columns {listed(labels[1:])}", logging.INFO)
            )
        numbers, names, more = read_labels(files, others, label, schema, _column)
        notes += more
    return Listing(
        EncodedPixels(ColumnBlobs(files, column, counts)),
        identifiers,
        numbers,
        names,
        whole="test" not in parts,
        root=path,
        # The first file only, so that loading the test split does not load all training images.
        sample=EncodedPixels(ColumnBlobs(train[:1], column, [_schema(train[0])[1]])),
        description=f"parquet {data.data_path.name}",
        division=Division(own_validation="validation" in parts),
        notes=tuple(notes),
    )


def _splits(path: Path, exclude: Sequence[str]) -> tuple[list[Path], dict[str, list[Path]], list[Note]]:
    """Training files, files of other splits by split word, and notes; no other splits if test is to be drawn."""
    if path.is_file():
        return [path], {}, []
    notes: list[Note] = []
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.parquet"))
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    excluded = [name for name in names if _is_excluded(name, exclude)]
    if excluded:
        notes.append(Note(f"left out by data.exclude: {quantity(len(excluded), 'file')}: {listed(excluded)}"))
    names = [name for name in names if name not in set(excluded)]
    if not names:
        raise DataError(f"data.data_path: no .parquet files in {path}; give a Parquet file or a folder of them")
    words = {name: split_of_path(name) for name in names}
    train = [name for name in names if is_train(words[name])]
    tests = [name for name in names if words[name] in TEST_WORDS]
    rest = [name for name in names if words[name] is None]
    if not train and tests and rest:
        notes.append(
            Note(f"using {quantity(len(rest), 'file')} without a split in the name for training: {listed(rest)}")
        )
        train = rest
    if not train:
        return [path / name for name in names], {}, notes
    homes = sorted({folder_of_splits(name) for name in train if words[name] is not None})
    if len(homes) > 1:
        raise DataError(
            f"data.data_path: several folders have training files ({', '.join(str(path / home) for home in homes[:5])}); "
            "give one of them"
        )
    # Use test files of another configuration of the data set only if this one has none.
    tests = [name for name in tests if folder_of_splits(name) in homes] or tests
    unused = [name for name in names if name not in (*train, *tests)]
    if unused:
        notes.append(Note(f"left out {quantity(len(unused), 'file')} without a split: {listed(unused)}"))
    by_word = {word: [path / name for name in tests if words[name] == word] for word in TEST_WORDS}
    return [path / name for name in train], {word: files for word, files in by_word.items() if files}, notes


def _is_excluded(name: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(name, pattern)
        or any(fnmatch.fnmatchcase(part, pattern.rstrip("/")) for part in name.split("/"))
        for pattern in patterns
    )


def _choose(
    train: list[Path], held: dict[str, list[Path]], label: str | None
) -> tuple[dict[str, list[Path]], list[Note]]:
    """The files of train, test and validation, and notes about splits that are not used."""
    words = list(held)
    test, validation = choose_splits(words, [_worth(held[word], label) for word in words], _worth(train, label))
    if test is None:
        return {"train": train}, []
    parts = {"train": train, "test": held[words[test]]}
    if validation is not None:
        parts["validation"] = held[words[validation]]
    notes = [
        Note(
            f"{quantity(len(held[word]), 'file')} of the split {word} {is_or_are(len(held[word]))} not used; "
            f"{words[test]} is the test split"
        )
        for place, word in enumerate(words)
        if place not in (test, validation)
    ]
    return parts, notes


def _worth(files: Sequence[Path], label: str | None) -> int:
    if label is not None and any(_is_label(value) for file in files for value in _column(file, label)):
        return LABELLED
    return UNLABELLED


def _is_label(value: Any) -> bool:
    # Data sets on the hub use -1 for hidden labels of test splits.
    return value is not None and not (isinstance(value, (int, float)) and value < 0)


def _column(file: Path, column: str) -> Sequence[Any]:
    """Values of a column; all None if the file has no such column, as in test splits without labels."""
    schema, count = _schema(file)
    if column not in schema.names:
        return [None] * count
    values: list[Any] = _read_columns(file, [column])[column].to_pylist()
    return values


def _count(file: Path, column: str, label: str | None, model: Path) -> int:
    """Number of rows of a file, which must have the image and label columns."""
    schema, count = _schema(file)
    if column not in schema.names or (label is not None and label not in schema.names):
        raise DataError(f"{file}: columns differ from {model.name}; keep only files of one layout in data.data_path")
    return count


def _schema(file: Path) -> tuple[pyarrow.Schema, int]:
    parquet = _open(file)
    return parquet.schema_arrow, parquet.metadata.num_rows


def _open(file: Path) -> pyarrow.parquet.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _read_columns(file: Path, columns: list[str]) -> pyarrow.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table, which would turn folder names such as `split=train` into columns.
        return pq.ParquetFile(file).read(columns=columns)
    except pa.ArrowMemoryError:
        raise DataError(
            f"{file}: the encoded images do not fit into memory; unpack them into a folder of files"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())}); download or write it again")


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
        f"{file}: no image column among {', '.join(schema.names)}; expected a struct with the field bytes, or binary"
    )
