"""Batches from worker processes, and one clear line when a worker dies or stalls."""

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
"""Seconds without a batch after which workers count as stalled."""
# Seconds between two looks at whether workers are alive.
_LOOK = 5.0
_AGAIN = "then start again, a training run with --resume auto"

Jobs = Callable[[], Iterator[list[Job]]]


class WorkerLoader:
    """Has batches of jobs prepared, in other processes where there are any.

    Workers that die or stall end the iteration with an error: what they had in hand could be prepared again, but what
    killed them, most often a lack of memory, would come again too. Training goes on from its last checkpoint.

    Args:
        preparation: what is done with a job.
        num_workers: processes; 0: the work is done here, and what stalls cannot be noticed.
        prefetch_factor: batches that each worker keeps ready.
        pin_memory: page-locked memory.
        persistent: whether workers stay for the next iteration.
        timeout: seconds without a batch after which workers count as stalled; `TIMEOUT` when not given.
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
        # Nothing that the loader refers to refers back to this object: workers that only the garbage collector can let
        # go miss the word to stop, and each of them is waited for in vain for seconds.
        self._loader: DataLoader[Any] = DataLoader(
            preparation,
            batch_sampler=self._sampler,
            collate_fn=Collation(preparation),
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=persistent and num_workers > 0,
            pin_memory=pin_memory,
            timeout=min(self._timeout, _LOOK) if num_workers else 0,
            # Draws nothing from the global generator.
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
            # Unless another iteration has begun meanwhile. What jobs refer to would otherwise keep this object alive.
            if self._sampler.batches is jobs:
                self._sampler.forget()

    def _start(self) -> Iterator[Prepared | Parcel]:
        before = set(multiprocessing.active_children())
        try:
            with _own_signal_handler():
                batches = iter(self._loader)
        except OSError as error:
            raise DataError(
                f"data.num_workers={self._num_workers}: worker processes cannot be started ({error.strerror or error}); free "
                f"memory or {free_shared_memory()}, or set data.num_workers=0, {_AGAIN}"
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
            # Out here, because the traceback keeps the workers from being let go.
            if problem:
                raise DataError(problem)

    def _problem(self, error: Exception, waited: float) -> str | None:
        """What to say of an error of PyTorch's loader; nothing to say for a look in vain, None for any other error."""
        text = str(error)
        if "DataLoader timed out" in text:
            return self._stalled() if waited >= self._timeout else ""
        if "DataLoader worker" in text and "exited unexpectedly" in text:
            return self._died(text)
        if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
            return (
                f"data.num_workers={self._num_workers}: too many open files to receive batches from worker processes; raise "
                f"the limit with `ulimit -n 65536`, or lower data.prefetch_factor, {_AGAIN}"
            )
        return None

    def _stalled(self) -> str:
        return (
            f"data.num_workers={self._num_workers}: no batch from the worker processes for {self._timeout:g} s; the disk with "
            f"the images does not answer, or memory is so short that the machine swaps. Check both, {_AGAIN}"
        )

    def _died(self, text: str) -> str:
        dead = [worker for worker in self._workers if worker.exitcode not in (None, 0)]
        which = f"worker process {dead[0].pid} {_end(dead[0].exitcode)}" if dead else text.splitlines()[0]
        if dead and dead[0].exitcode == -getattr(signal, "SIGBUS", 0):
            why = f"it ran out of {free_shared_memory()}; give it more room (docker run --shm-size=8g)"
        else:
            why = "most often memory ran out; lower data.num_workers or data.prefetch_factor"
        return f"data.num_workers={self._num_workers}: {which}, {why}, {_AGAIN}"

    def _received(self, batch: Prepared | Parcel) -> Prepared:
        if isinstance(batch, Prepared):
            return batch
        if batch.through_pipes:
            _tell(self._num_workers)
        return unpack(batch)


class _JobSampler(Sampler[list[Job]]):
    """Hands out the lists of jobs of whatever was asked for last; can start anywhere."""

    def __init__(self) -> None:
        self.batches: Jobs = _no_jobs
        self._running: Iterator[list[Job]] | None = None

    def __iter__(self) -> Iterator[list[Job]]:
        self._running = self.batches()
        return self._running

    def forget(self) -> None:
        """Let go of the jobs in hand and of whatever they refer to."""
        self.batches = _no_jobs
        if isinstance(self._running, Generator):
            self._running.close()
        self._running = None


def _no_jobs() -> Iterator[list[Job]]:
    return iter(())


@cache
def _tell(num_workers: int) -> None:
    """Say once that shared memory is short: every evaluation has a loader of its own."""
    log.warning(
        "%s is too small for %d worker processes: their batches come through pipes, which is slower; give it more room "
        "(docker run --shm-size=8g), or lower data.num_workers or data.prefetch_factor",
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
    """Put back the handler for the death of a child that was there before.

    PyTorch's raises wherever the main thread happens to be, between the updates of weights and target for example. Here
    deaths are noticed when the next batch does not come.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        # None: set by something other than Python, which cannot be put back from here.
        if before is not None:
            signal.signal(signal.SIGCHLD, before)
