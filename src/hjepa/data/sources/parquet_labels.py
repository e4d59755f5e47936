"""The label column of Parquet files: which one, and classes from its values."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.data.listing import Note
from hjepa.data.sources.labels import sort_classes
from hjepa.errors import DataError

if TYPE_CHECKING:
    import pyarrow

_NAMES = ("label", "labels", "class", "fine_label", "target", "category")

Values = Callable[[Path, str], Sequence[Any]]
"""The values of one column of a file."""


def label_columns(schema: pyarrow.Schema) -> list[str]:
    """Columns that may hold labels, by their names; the first one is used."""
    return [name for name in _NAMES if name in schema.names]


def read_labels(
    files: Sequence[Path], others: Sequence[Path], column: str, schema: pyarrow.Schema, values: Values
) -> tuple[Tensor, tuple[str, ...], list[Note]]:
    """Labels of ``files``. All splits decide the numbering, so that a label means the same in each.

    Where the metadata names classes, whole numbers are places in that list. Otherwise the classes are the values that
    occur, in their order: whole numbers (also stored as floating point), truth values or text.

    Args:
        files: Parquet files of this split.
        others: of the other ones.
        column: which column.
        schema: of the files.
        values: reads a column.

    Returns:
        int64 [N] with -1 for none, names of the classes, and what to say about them.

    Raises:
        DataError: values that are no labels, or beyond the names in the metadata.
    """
    kind = schema.field(column).type
    _refuse_lists(files[0], column, kind)
    here = [_plain(value) for file in files for value in values(file, column)]
    there = [_plain(value) for file in others for value in values(file, column)]
    known = {value for value in (*here, *there) if value is not None}
    whole = all(isinstance(value, int) for value in known)
    if not whole and not all(isinstance(value, str) for value in known):
        raise DataError(f"{files[0]}: column {column!r} holds {kind}; labels must be whole numbers or text")
    names = _class_names(schema, column)
    if not whole:
        texts = sort_classes(known)
        return _numbered(here, {text: label for label, text in enumerate(texts)}), tuple(texts), []
    notes = []
    negative = sum(value is not None and value < 0 for value in (*here, *there))
    if negative:
        notes.append(Note(f"{negative} rows have negative numbers in the column {column!r} and count as unlabelled"))
    present = sorted(value for value in known if value >= 0)
    if names is not None:
        if present and present[-1] >= len(names):
            raise DataError(
                f"{files[0]}: label {present[-1]} in column {column!r}, but the metadata names {len(names)} classes; "
                "correct one of them"
            )
        return _numbered(here, {label: label for label in present}), names, notes
    if present != list(range(len(present))):
        notes.append(
            Note(
                f"the column {column!r} holds {len(present)} different numbers from {present[0]} to {present[-1]}: classes "
                f"are numbered 0 to {len(present) - 1} in that order and named by their numbers",
                logging.INFO,
            )
        )
    return _numbered(here, {value: label for label, value in enumerate(present)}), tuple(map(str, present)), notes


def _numbered(values: Sequence[Any], number: dict[Any, int]) -> Tensor:
    return torch.tensor([number.get(value, -1) for value in values], dtype=torch.int64)


def _plain(value: Any) -> Any:
    """Truth values as text, and whole numbers that pandas has stored as floating point, where some are missing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if value != value:
            return None
        return int(value) if value.is_integer() else value
    return value


def _refuse_lists(file: Path, column: str, kind: Any) -> None:
    import pyarrow as pa

    if pa.types.is_nested(kind):
        raise DataError(
            f"{file}: column {column!r} holds {kind}, and an image has one label at most; write one whole number or text per "
            "row, or rename the column to train without labels"
        )


def _class_names(schema: pyarrow.Schema, column: str) -> tuple[str, ...] | None:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata["info"]["features"][column]["names"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None  # written by something else than the datasets library: numbers do for names
    return tuple(str(name) for name in names)
