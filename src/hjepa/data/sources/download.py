"""Running torchvision's download code so that every failure is one line that says what to do."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hjepa.errors import DataError
from hjepa.runtime.file_lock import alone_at

T = TypeVar("T")

# urllib's errors are OSErrors; torchvision reports a wrong checksum as a RuntimeError.
_FAILURES = (RuntimeError, OSError, http.client.HTTPException, EOFError)


def fetch(name: str, url: str, root: Path, download: bool, load: Callable[[bool], T]) -> T:
    """Read a set with ``load(False)``, or where it is not there and may be downloaded with ``load(True)``.

    Of several processes on a machine one downloads and extracts; the others wait and read what it has brought.

    Args:
        name: of the set.
        url: where it comes from, for messages.
        root: where it lies or will lie.
        download: whether it may be downloaded.
        load: reads the set below ``root``; with true it may download first.

    Raises:
        DataError: the set is not there, or its download failed or arrived damaged.
    """
    by_hand = f"fetch {url} by hand into {root} and run again"
    try:
        return load(False)
    except _FAILURES:
        if not download:
            raise DataError(
                f"data.dataset={name}: not found or damaged at {root}, and data.download=false; "
                f"point data.data_path at a copy, set data.download=true, or {by_hand}"
            ) from None
    with alone_at(root):
        try:
            return load(True)
        except _FAILURES as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"data.dataset={name}: the download failed ({reason}); {by_hand}, "
                "or point data.data_path at a copy and set data.download=false"
            ) from None
