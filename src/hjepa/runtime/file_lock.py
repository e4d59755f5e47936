"""Locks between processes, held by the operating system: they die with their process."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

logger = logging.getLogger("hjepa")

_FIRST_LOOK, _LONGEST_LOOK = 0.02, 0.5
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
# Locks of one process do not exclude its own threads. By process too, so that a forked child finds none that is held by
# a thread that it does not have.
_threads: dict[tuple[int, str], threading.Lock] = {}


class FileLock:
    """Excludes other processes, and other threads of this one, while open; waits until it can be had.

    The file stays behind and means nothing by itself: a killed process leaves no lock. On a file system without locks
    a warning says so, and nobody is excluded.

    Args:
        path: the file, made where it does not exist; its folder must.
        waiting: called once if the lock cannot be had at once.

    Raises:
        OSError: on entering, when the file cannot be opened.
    """

    def __init__(self, path: Path, waiting: Callable[[], None] | None = None) -> None:
        self._path = path
        self._waiting = waiting
        self._descriptor: int | None = None
        self._thread: threading.Lock | None = None

    def __enter__(self) -> FileLock:
        self._thread = _threads.setdefault((os.getpid(), str(self._path.absolute())), threading.Lock())
        self._thread.acquire()
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            self._wait(self._descriptor)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _wait(self, descriptor: int) -> None:
        pause = _FIRST_LOOK
        while True:
            try:
                lock(descriptor)
                return
            except OSError as error:
                if error.errno not in _TAKEN:
                    logger.warning("%s: the file system has no locks (%s)", self._path, error.strerror)
                    return
            if self._waiting is not None:
                self._waiting()
                self._waiting = None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)

    def _release(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)  # releases the lock
            self._descriptor = None
        if self._thread is not None:
            self._thread.release()
            self._thread = None


@contextlib.contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Let one process at a time bring a data set to ``path``; the others wait, and say so.

    The lock is a file beside ``path``. Where none can be made, nothing can be brought there either, and nobody waits.
    """

    def waiting() -> None:
        logger.info("%s: another process is bringing the data set here; waiting", path)

    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.parent / f".{path.name}.lock", waiting))
        except OSError as error:
            logger.info("%s: no lock beside it (%s)", path, error.strerror)
        yield


if sys.platform == "win32":
    import msvcrt

    def lock(descriptor: int) -> None:
        """Lock an open file, or raise `OSError` at once."""
        # One byte far behind any text, which others may then still read.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock an open file, or raise `OSError` at once."""
        # Record locks, unlike those of flock, are not shared with forked workers, which may outlive their parent.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
