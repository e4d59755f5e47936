"""Load batches in worker processes, with a one-line error if a worker dies or stalls."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from hjepa.data.loading.parcel import Parcel, Prepared, free_shared_memory, unpack
from hjepa.data.loading.workers import Collation, Job, Preparation
from hjepa.errors import DataError

log = logging.getLogger("hjepa")

TIMEOUT = 600.0
"""Seconds without a batch after which workers are considered stalled."""
# Seconds between checks that the workers are alive.
_LOOK = 5.0
_AGAIN = "then restart the command (training: with --resume auto)"

Jobs = Callable[[], Iterator[list[Job]]]


class WorkerLoader:
    """Prepares batches of jobs in worker processes, or in this process without workers.

    A worker that dies or stalls ends the iteration with an error. Its jobs are not retried, because the cause, usually
    a lack of memory, would recur; training can resume from its last checkpoint.

    Args:
        preparation: decodes and crops the image of a job.
        num_workers: number of worker processes; with 0 this process does the work, and stalls are not detected.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: whether to copy batches to page-locked memory.
        persistent: whether workers are kept for the next iteration.
        timeout: seconds without a batch after which workers are considered stalled; `TIMEOUT` by default.
    """

    def __init__(
        self,
        preparation: Preparation,
        *,
        num_workers: int,
        prefetch_factor: int,
        pin_memory: bool,
        persistent: bool,
        timeout: float | None = None,
    ) -> None:
        self._sampler = _JobSampler()
        self._timeout = TIMEOUT if timeout is None else timeout
        self._num_workers = num_workers
        self._workers: set[Any] = set()
        # Nothing that the loader references may reference this object. In a reference cycle the loader would be freed
        # by the garbage collector, too late for its stop signal to reach the workers, and shutdown would wait seconds
        # for each of them.
        self._loader: DataLoader[Any] = DataLoader(
            preparation,
            batch_sampler=self._sampler,
            collate_fn=Collation(preparation),
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=pin_memory,
            timeout=min(self._timeout, _LOOK) if num_workers else 0,
            # Keeps PyTorch from drawing the workers' seed from the global generator.
            generator=torch.Generator().manual_seed(0),
        )

    def work(self, jobs: Jobs) -> Iterator[Prepared]:
        """Batches in the order of their jobs.

        Raises:
            DataError: a worker died or stalled.
        """
        self._sampler.batches = jobs
        try:
            batches = self._start()
            while (batch := self._next(batches)) is not None:
                yield self._received(batch)
        finally:
            # Drop the jobs, which would keep this object alive, unless another iteration has started meanwhile.
            if self._sampler.batches is jobs:
                self._sampler.forget()

    def _start(self) -> Iterator[Prepared | Parcel]:
        before = set(multiprocessing.active_children())
        try:
            with _own_signal_handler():
                batches = iter(self._loader)
        except OSError as error:
            raise DataError(
                f"data.num_workers={self._num_workers}: worker processes cannot be started ({error.strerror or error}); "
                f"free memory or {free_shared_memory()}, or set data.num_workers=0, {_AGAIN}"
            ) from None
        self._workers |= set(multiprocessing.active_children()) - before
        return batches

    def _next(self, batches: Iterator[Prepared | Parcel]) -> Prepared | Parcel | None:
        if not self._num_workers:
            return next(batches, None)
        begun = time.monotonic()
        while True:
            try:
                return next(batches, None)
            except MemoryError:
                raise DataError(
                    f"data.num_workers={self._num_workers}: a worker process ran out of memory; lower data.num_workers or "
                    f"data.prefetch_factor, {_AGAIN}"
                ) from None
            except (RuntimeError, OSError) as error:
                problem = self._problem(error, time.monotonic() - begun)
                if problem is None:
                    raise
            # Raised outside the handler, as the traceback would keep the workers alive.
            if problem:
                raise DataError(problem)

    def _problem(self, error: Exception, waited: float) -> str | None:
        """The message for an error of PyTorch's loader: empty if it is only a periodic check, None if unknown."""
        text = str(error)
        if "DataLoader timed out" in text:
            return self._stalled() if waited >= self._timeout else ""
        if "DataLoader worker" in text and "exited unexpectedly" in text:
            return self._died(text)
        if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
            return (
                f"data.num_workers={self._num_workers}: too many open files to receive batches from worker processes; "
                f"raise the limit with `ulimit -n 65536`, or lower data.prefetch_factor, {_AGAIN}"
            )
        return None

    def _stalled(self) -> str:
        return (
            f"data.num_workers={self._num_workers}: no batch from the worker processes for {self._timeout:g} s; the disk "
            f"with the images does not respond, or the machine is swapping for lack of memory. Check both, {_AGAIN}"
        )

    def _died(self, text: str) -> str:
        dead = [worker for worker in self._workers if worker.exitcode not in (None, 0)]
        which = f"worker process {dead[0].pid} {_end(dead[0].exitcode)}" if dead else text.splitlines()[0]
        if dead and dead[0].exitcode == -getattr(signal, "SIGBUS", 0):
            why = f"because it ran out of {free_shared_memory()}; increase it (docker run --shm-size=8g)"
        else:
            why = "probably for lack of memory; lower data.num_workers or data.prefetch_factor"
        return f"data.num_workers={self._num_workers}: {which}, {why}, {_AGAIN}"

    def _received(self, batch: Prepared | Parcel) -> Prepared:
        if isinstance(batch, Prepared):
            return batch
        if batch.through_pipes:
            _tell(self._num_workers)
        return unpack(batch)


class _JobSampler(Sampler[list[Job]]):
    """Batch sampler that yields the jobs of the latest call of `WorkerLoader.work`."""

    def __init__(self) -> None:
        self.batches: Jobs = _no_jobs
        self._running: Iterator[list[Job]] | None = None

    def __iter__(self) -> Iterator[list[Job]]:
        self._running = self.batches()
        return self._running

    def forget(self) -> None:
        """Release the current jobs and everything that they reference."""
        self.batches = _no_jobs
        if isinstance(self._running, Generator):
            self._running.close()
        self._running = None


def _no_jobs() -> Iterator[list[Job]]:
    return iter(())


@cache
def _tell(num_workers: int) -> None:
    """Warn once per process that shared memory is full; every evaluation creates its own loader."""
    log.warning(
        "%s is too small for %d worker processes, so batches are sent through pipes, which is slower; increase it (docker "
        "run --shm-size=8g), or lower data.num_workers or data.prefetch_factor",
        free_shared_memory(),
        num_workers,
    )


def _end(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    """Context that restores the previous SIGCHLD handler.

    PyTorch's handler raises at any point of the main thread, for example between the updates of weights and target
    encoder. Without it, a dead worker is detected when the next batch is awaited.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        # None: not installed from Python, so it cannot be restored.
        if before is not None:
            signal.signal(signal.SIGCHLD, before)
