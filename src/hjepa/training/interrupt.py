"""Stopping in an orderly way on Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

# Launchers pass on what their processes were sent already: the terminal and torchrun, or Slurm and torchrun, make two signals of
# one wish. Signals within this many seconds count as one.
SAME_WISH = 1.0


class StopRequest:
    """While open, the first Ctrl-C or SIGTERM asks the loop to stop after the current step; one that comes later is immediate.

    Signals within a second of the first one are the same request.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Signals can only be caught in the main thread; elsewhere the caller decides.
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
        elif time.monotonic() - self._since >= SAME_WISH:
            raise KeyboardInterrupt
