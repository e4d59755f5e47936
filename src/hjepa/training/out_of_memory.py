"""Out of memory: use smaller micro-batches and more of them, at the same effective batch size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hjepa.errors import UserError
from hjepa.runtime import distribution

log = logging.getLogger("hjepa")

# Messages of PyTorch's CPU and MPS allocators; CUDA raises an exception type of its own.
_TEXTS = ("can't allocate memory", "not enough memory", "out of memory")
_SMALLER = "use a smaller model or image size, or set training.use_amp or model.gradient_checkpointing"


class MicroBatchTooLargeError(UserError):
    """A micro-batch does not fit into memory; no weight was updated."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an out-of-memory error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TEXTS)


def next_rung(batch_size: int, accumulation_steps: int, fewest: int = 1) -> tuple[int, int] | None:
    """The next smaller micro-batch: 8 x 4 -> 4 x 8 -> 2 x 16 -> 1 x 32.

    The micro-batch is divided by its smallest prime factor, the number of micro-batches multiplied by it.

    Args:
        batch_size: images per forward pass.
        accumulation_steps: forward passes per update.
        fewest: minimum number of images per forward pass.

    Returns:
        the new pair with the same product, or None if no smaller micro-batch is allowed.
    """
    for factor in range(2, batch_size + 1):
        if batch_size % factor == 0:
            smaller = batch_size // factor
            return (smaller, accumulation_steps * factor) if smaller >= fewest else None
    return None


@dataclass
class MicroBatches:
    """How the images of an update are split into forward passes.

    Attributes:
        batch_size: images per forward pass of one process.
        steps: forward passes per update.
        fewest: minimum number of images per forward pass.
        compares_images: whether the loss compares the images of a pass with each other.
        world: rank and number of processes.
        device: where the passes run.
    """

    batch_size: int
    steps: int
    fewest: int
    compares_images: bool
    world: distribution.World
    device: torch.device

    def too_large(self, step: int, error: BaseException) -> str:
        """The message for a pass that ran out of memory."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no details"
        return f"step {step}: out of memory on {self.device} with data.batch_size={self.batch_size} ({reason})"

    def shrink(self, problem: str) -> None:
        """Switch to smaller micro-batches after a step ran out of memory.

        Args:
            problem: the message of `too_large`.

        Raises:
            UserError: the micro-batch cannot get smaller, or there are other processes: they are already waiting in a
                collective that this one can no longer join.
        """
        rung = next_rung(self.batch_size, self.steps, self.fewest)
        if rung is None:
            raise UserError(f"{problem}; {_SMALLER}")
        if self.world.size > 1:
            raise UserError(
                f"process {self.world.rank}: {problem}; the run stops, as the other processes cannot continue without it; "
                f"resume with data.batch_size={rung[0]} training.accumulation_steps={rung[1]} --resume auto (torchrun "
                "--max-restarts resumes automatically)"
            )
        self._take(rung, problem)

    def agree(self, step: int, trial: Callable[[], str | None]) -> bool:
        """Find a micro-batch that fits in every process, before the first step of a multi-process run.

        Each process tries one micro-batch without collectives, so a process that runs out of memory leaves no other one
        waiting; then they vote. Tensor sizes are constant over a run, so what fits now fits in every later step.

        Args:
            step: the first step, for messages.
            trial: runs one micro-batch of the current size; returns the message if it ran out of memory.

        Returns:
            whether the micro-batch was made smaller and must be tried again.

        Raises:
            UserError: the micro-batch cannot get smaller.
        """
        problem = trial()
        (somebody,) = distribution.vote(problem is not None)
        if not somebody:
            return False
        why = problem or f"step {step}: out of memory in another process with data.batch_size={self.batch_size}"
        rung = next_rung(self.batch_size, self.steps, self.fewest)
        if rung is None:
            raise UserError(f"{why}; {_SMALLER}")
        self._take(rung, why)
        return True

    def restore(self, state: dict[str, Any]) -> bool:
        """Keep smaller micro-batches that a run switched to, unless the configuration has changed them.

        Args:
            state: contents of the checkpoint.

        Returns:
            whether they are smaller now.
        """
        before = state["config"]["data"]["batch_size"], state["config"]["training"]["accumulation_steps"]
        used = state["micro_batch"]["batch_size"], state["micro_batch"]["accumulation_steps"]
        if before != (self.batch_size, self.steps) or before == used:
            return False
        log.info("continuing with micro-batches of %d x %d; memory ran out with %d x %d", *used, *before)
        self.batch_size, self.steps = used
        return True

    def _take(self, rung: tuple[int, int], why: str) -> None:
        log.warning(
            "%s; continuing with micro-batches of %d x %d instead of %d x %d, still %d images per update",
            why,
            *rung,
            self.batch_size,
            self.steps,
            self.batch_size * self.steps * self.world.size,
        )
        if self.compares_images:
            log.warning(
                "loss terms that compare the images of a micro-batch now compare %d at a time",
                rung[0] * self.world.size,
            )
        self.batch_size, self.steps = rung
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
