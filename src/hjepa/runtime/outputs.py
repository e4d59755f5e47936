"""Output files of commands: checked before any work, never overwritten without being asked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hjepa.errors import UserError
from hjepa.runtime.files import write_atomically


def check_outputs(paths: Sequence[Path], suffixes: Sequence[str], *, force: bool) -> None:
    """Check the files that a command will write.

    Args:
        paths: the first is what the user gave; all must have one of the suffixes, or go with one that has.
        suffixes: allowed suffixes of the first, such as ``.json``.
        force: whether files may be overwritten.

    Raises:
        UserError: another suffix, a folder, a folder that cannot be created, or a file that exists.
    """
    if paths and paths[0].suffix not in suffixes:
        raise UserError(f"--output: {paths[0]} has an unknown suffix; use {' or '.join(suffixes)}")
    for path in paths:
        if path.is_dir():
            raise UserError(f"--output: {path} is a folder; give a file, for example {path / f'out{suffixes[0]}'}")
        if path.exists() and not force:
            raise UserError(f"--output: {path} exists; choose another file, or overwrite it with --force")
    for folder in {path.parent for path in paths}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output: {folder} cannot be created ({error.strerror}); choose another file") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises `UserError` if it cannot be written."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written ({error.strerror}); choose another file") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file. Raises `UserError` if it cannot be written."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written ({error.strerror}); choose another file") from None


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table as aligned plain text; columns whose numbers are in ``right`` are aligned to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = (
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
