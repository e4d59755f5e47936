"""Work beside the training loop: one job at a time in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundJob:
    """Runs one job at a time; whoever hands over the next one waits for the one in flight.

    The thread is no daemon: a program that ends lets it finish, so that a checkpoint is never half written because
    training was done.

    Args:
        enabled: use a thread; otherwise jobs run at once, in the caller.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Run a job. Call `finish` first: its error would be lost otherwise."""
        assert self._thread is None

        def run() -> None:
            try:
                job()
            except BaseException as error:
                self._error = error

        if not self._enabled:
            run()
            return
        self._thread = threading.Thread(target=run, name="hjepa-checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the job in flight. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
