"""Worker processes for training: those that crash or stall are replaced, and no batch is lost or repeated."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from hjepa.data.loading.workers import Job, JobSampler, Preparation, Prepared, job_loader
from hjepa.errors import DataError

log = logging.getLogger("hjepa")

# Seconds between two looks at whether workers are alive.
_LOOK = 5.0


class Crew:
    """Workers that prepare batches of jobs.

    Args:
        preparation: what a worker does.
        num_workers: processes; 0: the work is done here, and what stalls cannot be noticed.
        prefetch_factor: batches that each worker keeps ready.
        pin_memory: page-locked memory.
        timeout: seconds after which a batch that does not come counts as stalled; 0: never.
        restarts: how many times workers are replaced before that is an error.

    Attributes:
        replaced: how many times workers were replaced.
    """

    def __init__(
        self,
        preparation: Preparation,
        *,
        num_workers: int,
        prefetch_factor: int,
        pin_memory: bool,
        timeout: float,
        restarts: int,
    ) -> None:
        self._sampler = JobSampler()
        self._timeout = timeout or float("inf")
        self._restarts = restarts
        self.replaced = 0
        # Nothing here refers back to this object: workers that only the garbage collector can let go miss the word to
        # stop, and each of them is waited for in vain for seconds.
        self._hire = partial(
            job_loader,
            preparation,
            self._sampler,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent=True,
            timeout=min(self._timeout, _LOOK),
        )
        self._loader = self._hire()

    def work(self, jobs: Callable[[int], Iterator[list[Job]]]) -> Iterator[Prepared]:
        """Batches in order.

        Args:
            jobs: from a number of batches to the jobs of those that come after them.

        Raises:
            DataError: workers crashed or stalled more often than is allowed.
        """
        done = 0
        mine: Callable[[], Iterator[list[Job]]] | None = None
        try:
            while True:
                mine = self._sampler.batches = partial(jobs, done)
                batches = iter(self._loader)
                _mute_deaths()
                while True:
                    prepared, failure = self._next(batches)
                    if failure is not None:
                        break
                    if prepared is None:
                        return
                    done += 1
                    yield prepared
                self._replace(failure)
        finally:
            # Unless someone has begun anew meanwhile. What jobs refer to would otherwise refer back to this object.
            if self._sampler.batches is mine:
                self._sampler.forget()

    def _next(self, batches: Iterator[Prepared]) -> tuple[Prepared | None, str | None]:
        """The next batch, or nothing at the end, or what is wrong with the workers."""
        begun = time.monotonic()
        while True:
            try:
                return next(batches), None
            except StopIteration:
                return None, None
            except RuntimeError as error:
                text = str(error)
                if "DataLoader timed out" in text:
                    # Only a look at whether all are alive; the loader can be asked again.
                    if time.monotonic() - begun < self._timeout:
                        continue
                    return None, f"no batch for {self._timeout:g} s (data.worker_timeout); does the disk answer?"
                if "DataLoader worker" in text and "exited unexpectedly" in text:
                    return None, f"a worker died ({text.splitlines()[0]}); was memory short?"
                raise

    def _replace(self, failure: str) -> None:
        if self.replaced >= self._restarts:
            raise DataError(
                f"data.worker_restarts: {failure} Workers were replaced {self.replaced} times before; look at the disk and "
                "at free memory, lower data.num_workers, or set data.num_workers=0"
            )
        self.replaced += 1
        log.warning("%s Replacing the workers, time %d of %d", failure, self.replaced, self._restarts)
        self._loader = self._hire()


def _mute_deaths() -> None:
    """Take back PyTorch's handler for the death of a child.

    It raises wherever the main thread happens to be, between an update of the weights and of the target for example. Here
    deaths are noticed when the next batch does not come.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    if "_set_SIGCHLD_handler" in getattr(signal.getsignal(signal.SIGCHLD), "__qualname__", ""):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
