"""``data.labels_file``: a table of labels for pictures that are not sorted into class folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from hjepa.errors import DataError


def read_labels(path: Path, names: Sequence[str], known: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Read a CSV file with the columns ``file`` and ``label``.

    Every picture needs a row; an empty label says that it has none. Classes are numbered in the order of their names
    (of their values, where all are whole numbers).

    Args:
        path: the table.
        names: the pictures to label, relative to the data set's root.
        known: all pictures of the set that rows may name.

    Returns:
        int64 ``[len(names)]`` with -1 for none, and the class names.

    Raises:
        DataError: no such file, not CSV, a column missing, a row that names no picture or one with another label
            already, pictures without a row.
    """
    table = _read(path)
    existing = set(known)
    for name, (line, _) in table.items():
        if name not in existing:
            raise DataError(
                f"data.labels_file: {path}, line {line}: no image {name!r}; paths are relative to data.data_path"
            )
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"data.labels_file: {path} has no row for {len(missing)} of {len(names)} images, for example "
            f"{missing[0]}; add them (with an empty label for images without one)"
        )
    values = {label for _, label in table.values() if label}
    if not values:
        raise DataError(f"data.labels_file: {path} holds no label; leave it out for images without labels")
    classes = sort_classes(values)
    number = {"": -1} | {value: label for label, value in enumerate(classes)}
    return torch.tensor([number[table[name][1]] for name in names]), tuple(classes)


def sort_classes(names: set[str]) -> list[str]:
    """Class names in the order of their labels: by value where all are whole numbers, else alphabetical."""
    return sorted(names, key=lambda name: (int(name), name)) if all(n.isdecimal() for n in names) else sorted(names)


def _read(path: Path) -> dict[str, tuple[int, str]]:
    """Line and label by file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            for column in ("file", "label"):
                if column not in columns:
                    raise DataError(
                        f"data.labels_file: {path} has no column {column!r}; its first line must name the columns "
                        f"file,label and is {','.join(columns) or 'empty'}"
                    )
            reader.fieldnames = columns
            table: dict[str, tuple[int, str]] = {}
            for row in reader:
                if not row["file"] or row["label"] is None:
                    raise DataError(f"data.labels_file: {path}, line {reader.line_num}: a file and a label are needed")
                name, label = PurePosixPath(row["file"].strip()).as_posix(), row["label"].strip()
                if name in table and table[name][1] != label:
                    raise DataError(
                        f"data.labels_file: {path}, line {reader.line_num}: {name} has the label "
                        f"{table[name][1]!r} in line {table[name][0]} and {label!r} here; keep one"
                    )
                table[name] = (reader.line_num, label)
    except FileNotFoundError:
        raise DataError(
            f"data.labels_file: {path} does not exist; give a CSV file with the columns file,label"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"data.labels_file: {path} cannot be read as CSV ({error}); the columns file,label are needed"
        ) from None
    return table
