"""Orderly stop on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

# The same Ctrl-C may arrive twice: from the terminal (or Slurm), and forwarded by torchrun. Signals within this many
# seconds count as one request.
SAME_REQUEST = 1.0


class StopRequest:
    """Context in which the first Ctrl-C or SIGTERM stops the loop after the current step, and a second one at once.

    A signal within a second of the first one is the same request.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Python handles signals in the main thread only; in other threads the caller is responsible.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, *_: int | FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since >= SAME_REQUEST:
            raise KeyboardInterrupt
