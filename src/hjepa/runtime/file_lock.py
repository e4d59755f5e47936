"""Locks between processes and threads, by filelock: the operating system holds them, and they die with their process."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("hjepa")

# What network file systems without a lock service answer.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def exclusive(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Exclude other processes, and other threads of this one; wait until that is possible.

    The file stays behind and means nothing by itself: a killed process leaves no lock, and a forked one inherits none.
    On a file system without locks a warning says so, and nobody is excluded.

    Args:
        path: the file, made where it does not exist; its folder must.
        waiting: logged once if the lock cannot be had at once.

    Raises:
        OSError: the file cannot be opened.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting is not None:
                log.info(waiting)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: the file system has no locks (%s)", path, error.strerror)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Let one process at a time bring a data set to ``path``; the others wait, and say so.

    The lock is a file beside ``path``. Where none can be made, nothing can be brought there either, and nobody waits.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"{path}: another process is bringing the data set here; waiting"
            stack.enter_context(exclusive(path.parent / f".{path.name}.lock", waiting))
        except OSError as error:
            log.info("%s: no lock beside it (%s)", path, error.strerror)
        yield
