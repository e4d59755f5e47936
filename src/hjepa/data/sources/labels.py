"""Tables of labels for images without class folders: ``data.labels_file``, or a table found beside the images."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from hjepa.errors import DataError

_TABLES = (".csv", ".tsv", ".txt")
# Largest table to search for labels, in bytes; that of ImageNet's 50,000 validation images has 5 MB.
_LARGEST = 1 << 26


class _Row(NamedTuple):
    line: int
    name: str
    label: str


def read_labels(path: Path, known: Sequence[str]) -> dict[str, str]:
    """Read ``data.labels_file``: CSV with the columns ``file`` and ``label``, or ``.txt`` or ``.tsv`` without a header,
    with a file and its label in each line.

    A row names its image by the path relative to ``data.data_path``, or by the end of that path if it is unique. An
    empty label means that the image has none.

    Args:
        path: the table.
        known: all images of the data set, relative to its root.

    Returns:
        label by image, empty for none.

    Raises:
        DataError: the file is missing or not a table, a column is missing, a row names no image or contradicts an
            earlier row, or there is no label at all.
    """
    existing, ends = set(known), _Ends(known)
    table: dict[str, tuple[int, str]] = {}
    for line, given, label in _rows(path):
        name = given if given in existing else ends.find(given)
        if name is None:
            raise DataError(
                f"data.labels_file: {path}, line {line}: no image {given!r}; give paths relative to data.data_path"
            )
        if name in table and table[name][1] != label:
            raise DataError(
                f"data.labels_file: {path}, line {line}: {name} has label {label!r} here but {table[name][1]!r} in line "
                f"{table[name][0]}; remove one of them"
            )
        table[name] = (line, label)
    if not any(label for _, label in table.values()):
        raise DataError(f"data.labels_file: {path} contains no labels; leave it out if the images have none")
    return {name: label for name, (_, label) in table.items()}


def require_rows(path: Path, table: dict[str, str], names: Sequence[str]) -> None:
    """Raise `DataError` unless every image of ``names`` has a row."""
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"data.labels_file: {path} has no row for {len(missing)} of {len(names)} images, for example "
            f"{missing[0]}; add the rows (with an empty label for images without one)"
        )


def find_table(folder: Path, names: Sequence[str], classes: set[str]) -> tuple[Path, dict[str, str]] | None:
    """Find a table, in a split's folder or beside it, that gives every image of the split a known class.

    Examples are ``val/val_annotations.txt`` of Tiny ImageNet and ``LOC_val_solution.csv`` of ImageNet. In each line the
    first column is the file name, with or without suffix, and the label is the second column or its first word.

    Args:
        folder: folder of the split.
        names: its images.
        classes: names of the classes.

    Returns:
        the table and the label by image; None if no table labels all images.
    """
    by_name = {PurePosixPath(name).name: name for name in names}
    if len(by_name) < len(names):
        return None
    by_name |= {PurePosixPath(name).stem: name for name in names}
    tables = [f for place in (folder, folder.parent) for f in sorted(place.iterdir()) if f.suffix.lower() in _TABLES]
    for table in tables:
        labels = _loosely(table, by_name, classes)
        if len(labels) == len(names):
            return table, labels
    return None


def sort_classes(names: set[str]) -> list[str]:
    """Class names in the order of their labels: by value if all are whole numbers, else alphabetical."""
    return sorted(names, key=lambda name: (int(name), name)) if all(n.isdecimal() for n in names) else sorted(names)


class _Ends:
    """Look-up of paths by their last parts."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._by_last: dict[str, list[str]] = {}

    def find(self, end: str) -> str | None:
        if not self._by_last:
            for name in self._names:
                self._by_last.setdefault(PurePosixPath(name).name, []).append(name)
        found = [name for name in self._by_last.get(PurePosixPath(end).name, ()) if name.endswith(f"/{end}")]
        return found[0] if len(found) == 1 else None


def _loosely(table: Path, by_name: dict[str, str], classes: set[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    try:
        if not table.is_file() or table.stat().st_size > _LARGEST:
            return {}
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    for line in text.splitlines():
        fields = [field.strip(' "') for field in re.split(r"[\t,;]" if re.search(r"[\t,;]", line) else r"\s+", line)]
        name = by_name.get(PurePosixPath(fields[0]).name)
        if name is None or len(fields) < 2 or not fields[1]:
            continue
        label = fields[1] if fields[1] in classes else fields[1].split()[0]
        if label in classes:
            labels[name] = label
    return labels


def _rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            plain = path.suffix.lower() in (".txt", ".tsv") and not {"file", "label"} <= set(re.split(r"\W+", first))
            yield from _plain(path, file) if plain else _headed(path, file)
    except FileNotFoundError:
        raise DataError(
            f"data.labels_file: {path} does not exist; give a CSV file with the columns file,label"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"data.labels_file: {path} cannot be read as CSV ({error}); give a CSV file with the columns file,label"
        ) from None


def _plain(path: Path, file: Iterator[str]) -> Iterator[_Row]:
    for number, line in enumerate(file, start=1):
        fields = line.rstrip("\r\n").split("\t") if "\t" in line else line.split(maxsplit=1)
        if not line.strip():
            continue
        if len(fields) < 2:
            raise DataError(f"data.labels_file: {path}, line {number}: expected a file and a label")
        yield _Row(number, PurePosixPath(fields[0].strip()).as_posix(), fields[1].strip())


def _headed(path: Path, file: Iterator[str]) -> Iterator[_Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(file, strict=True, skipinitialspace=True, delimiter=delimiter)
    columns = [column.strip() for column in reader.fieldnames or ()]
    for column in ("file", "label"):
        if column not in columns:
            raise DataError(
                f"data.labels_file: {path} has no column {column!r}; its first line must name the columns "
                f"file,label, but is {','.join(columns) or 'empty'}"
            )
    reader.fieldnames = columns
    for row in reader:
        if not row["file"] or row["label"] is None:
            raise DataError(f"data.labels_file: {path}, line {reader.line_num}: expected a file and a label")
        yield _Row(reader.line_num, PurePosixPath(row["file"].strip()).as_posix(), row["label"].strip())
