"""Locks between processes and threads, by filelock. The operating system releases them when the process ends."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("hjepa")

# Errors of network file systems without a lock service.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def exclusive(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Context that excludes other processes, and other threads of this one; waits for the lock.

    The file stays behind; only the lock on it counts. A killed process leaves none, and a forked one inherits none. If
    the file system has no locks, a warning is logged and nothing is excluded.

    Args:
        path: the lock file, created if missing; its folder must exist.
        waiting: logged once if the lock is taken.

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
        log.warning("%s: the file system does not support locks (%s); continuing without", path, error.strerror)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Context in which one process at a time fetches a data set to ``path``; the others log that they wait.

    The lock is a file beside ``path``. If it cannot be created, the data set could not be written either, so there is
    nothing to wait for.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"{path}: waiting for another process that is fetching the data set"
            stack.enter_context(exclusive(path.parent / f".{path.name}.lock", waiting))
        except OSError as error:
            log.info("%s: continuing without a lock (%s)", path, error.strerror)
        yield
