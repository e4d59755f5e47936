"""Run torchvision's download code, and turn every failure into a one-line error that says what to do."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hjepa.errors import DataError
from hjepa.runtime.file_lock import alone_at

T = TypeVar("T")

# urllib's errors are OSErrors; torchvision raises RuntimeError for a wrong checksum.
_FAILURES = (RuntimeError, OSError, http.client.HTTPException, EOFError)


def fetch(name: str, url: str, root: Path, download: bool, load: Callable[[bool], T]) -> T:
    """Read a data set with ``load(False)``; if that fails and ``download`` is true, with ``load(True)``.

    If several processes on a machine need the data set, one downloads and extracts it while the others wait.

    Args:
        name: name of the data set.
        url: where it is downloaded from, for messages.
        root: the folder that contains or will contain it.
        download: whether it may be downloaded.
        load: reads the data set from ``root``; if called with true, it may download it first.

    Returns:
        The result of ``load``.

    Raises:
        DataError: the data set is missing, or its download failed or is damaged.
    """
    by_hand = f"download {url} by hand to {root} and run again"
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
