"""Messages of the library on standard error, for commands whose standard output is their result."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

log = logging.getLogger("hjepa")


@contextlib.contextmanager
def log_on_stderr() -> Iterator[None]:
    """While open, messages from INFO on are written to standard error as plain lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
