"""Lock on a run folder, so that two runs never write to it. The operating system releases it when the process ends."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from types import TracebackType

from hjepa.errors import UserError

_NAME = ".lock"
# The lock does not exclude other threads of the same process, so the folders it holds are listed here.
_held: set[Path] = set()


class FolderLock:
    """Context that excludes other processes, and other runs of this process, from a folder.

    The file ``.lock`` stays behind; only the lock on it counts, and a killed process leaves none. Worker processes do
    not inherit the lock.

    Args:
        folder: must exist.

    Raises:
        UserError: on entering, if the folder is locked; names the process and machine, if known.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = folder.resolve()
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        if self._key in _held:
            raise self._taken("another run of this process")
        try:
            descriptor = os.open(self._folder / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{self._folder}: cannot be locked ({error.strerror}); choose another --output-dir"
            ) from None
        try:
            _lock(descriptor)
        except OSError:
            owner = _read(descriptor)
            os.close(descriptor)
            raise self._taken(owner or "another process") from None
        self._descriptor = descriptor
        _held.add(self._key)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # releases the lock
            self._descriptor = None
        _held.discard(self._key)

    def _taken(self, owner: str) -> UserError:
        return UserError(
            f"{self._folder}: in use by {owner}; wait until it ends, stop it, or choose another --output-dir"
        )


def _read(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.read(descriptor, 200).decode("utf-8", errors="replace").strip()
    return ""


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        # Lock one byte far beyond the text, so that others can still read the text.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        """Lock an open file, or raise `OSError` at once."""
        # POSIX record locks: forked workers share flock locks (filelock's too) and may outlive a killed parent.
        # filelock closes them in a child forked by Python, but not in one forked inside a native library.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
