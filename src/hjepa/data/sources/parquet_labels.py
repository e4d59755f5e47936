"""The label column of Parquet files: choose it, and convert its values to classes."""

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
from hjepa.data.wording import is_or_are, quantity
from hjepa.errors import DataError

if TYPE_CHECKING:
    import pyarrow

_NAMES = ("label", "labels", "class", "fine_label", "target", "category")

Values = Callable[[Path, str], Sequence[Any]]
"""Returns the values of one column of a file."""


def label_columns(schema: pyarrow.Schema) -> list[str]:
    """Columns whose names suggest labels; the first one is used."""
    return [name for name in _NAMES if name in schema.names]


def read_labels(
    files: Sequence[Path], others: Sequence[Path], column: str, schema: pyarrow.Schema, values: Values
) -> tuple[Tensor, tuple[str, ...], list[Note]]:
    """Read the labels of ``files``, with classes numbered over all splits together.

    If the metadata names the classes, whole numbers are indices into that list. Otherwise the classes are the sorted
    values that occur: whole numbers (possibly stored as floating point), booleans or text.

    Args:
        files: Parquet files of this split.
        others: Parquet files of the other splits.
        column: name of the label column.
        schema: schema of the files.
        values: reads a column.

    Returns:
        labels, int64 [N] with -1 for none; class names; notes.

    Raises:
        DataError: values that cannot be labels, or that exceed the names in the metadata.
    """
    kind = schema.field(column).type
    _refuse_lists(files[0], column, kind)
    here = [_plain(value) for file in files for value in values(file, column)]
    there = [_plain(value) for file in others for value in values(file, column)]
    known = {value for value in (*here, *there) if value is not None}
    whole = all(isinstance(value, int) for value in known)
    if not whole and not all(isinstance(value, str) for value in known):
        raise DataError(f"{files[0]}: column {column!r} has type {kind}; labels must be whole numbers or text")
    names = _class_names(schema, column)
    if not whole:
        texts = sort_classes(known)
        return _numbered(here, {text: label for label, text in enumerate(texts)}), tuple(texts), []
    notes = []
    negative = sum(value is not None and value < 0 for value in (*here, *there))
    if negative:
        notes.append(
            Note(
                f"{quantity(negative, 'row')} with negative values in column {column!r} {is_or_are(negative)} treated as unlabelled"
            )
        )
    present = sorted(value for value in known if value >= 0)
    if names is not None:
        if present and present[-1] >= len(names):
            raise DataError(
                f"{files[0]}: column {column!r} has label {present[-1]}, but the metadata names only {len(names)} classes; "
                "correct one of them"
            )
        return _numbered(here, {label: label for label in present}), names, notes
    if present != list(range(len(present))):
        span = f"{len(present)} different values from {present[0]} to {present[-1]}"
        if len(present) == 1:
            span = f"only the value {present[0]}"
        notes.append(
            Note(
                f"column {column!r} has {span}; renumbering the classes 0 to {len(present) - 1} in that order, with the "
                "values as names",
                logging.INFO,
            )
        )
    return _numbered(here, {value: label for label, value in enumerate(present)}), tuple(map(str, present)), notes


def _numbered(values: Sequence[Any], number: dict[Any, int]) -> Tensor:
    return torch.tensor([number.get(value, -1) for value in values], dtype=torch.int64)


def _plain(value: Any) -> Any:
    """Booleans as text; floats as integers, since pandas stores integer columns with missing values as floats."""
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
            f"{file}: column {column!r} has type {kind}, but an image can have only one label; write one whole number or "
            "text per row, or rename the column to train without labels"
        )


def _class_names(schema: pyarrow.Schema, column: str) -> tuple[str, ...] | None:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata["info"]["features"][column]["names"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None  # not written by the datasets library; numbers serve as names
    return tuple(str(name) for name in names)
