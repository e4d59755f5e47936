"""Running torchvision's download code so that every failure is one line that says what to do."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hjepa.errors import DataError

T = TypeVar("T")


def fetch(name: str, url: str, root: Path, download: bool, load: Callable[[], T]) -> T:
    """Call ``load``, which reads the set below ``root`` and may download it from ``url``.

    Raises:
        DataError: the set is not there, or its download failed or arrived damaged.
    """
    by_hand = f"fetch {url} by hand into {root} and run again"
    try:
        return load()
    except (RuntimeError, OSError, http.client.HTTPException, EOFError) as error:
        # urllib's errors are OSErrors; torchvision reports a wrong checksum as a RuntimeError.
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            raise DataError(
                f"data.dataset={name}: the download failed ({reason}); {by_hand}, "
                "or point data.data_path at a copy and set data.download=false"
            ) from None
        raise DataError(
            f"data.dataset={name}: not found or damaged at {root}, and data.download=false; "
            f"point data.data_path at a copy, set data.download=true, or {by_hand}"
        ) from None
