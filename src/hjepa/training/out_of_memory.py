"""When memory runs out: smaller micro-batches with the same effective batch, and more of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hjepa.errors import UserError
from hjepa.runtime import distribution

log = logging.getLogger("hjepa")

# What PyTorch's allocators for main memory and for Apple's GPU say; CUDA has an exception of its own.
_TEXTS = ("can't allocate memory", "not enough memory", "out of memory")
_SMALLER = "choose a smaller model or image size, or set training.use_amp or model.gradient_checkpointing"


class MicroBatchTooLargeError(UserError):
    """The gradient of a micro-batch does not fit into memory; nothing was updated."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TEXTS)


def next_rung(batch_size: int, accumulation_steps: int, fewest: int = 1) -> tuple[int, int] | None:
    """The next rung of the ladder 8 x 4 -> 4 x 8 -> 2 x 16 -> 1 x 32.

    The micro-batch is divided by its smallest prime factor, the number of micro-batches multiplied by it.

    Args:
        batch_size: images per forward pass.
        accumulation_steps: forward passes per update.
        fewest: images that a forward pass needs at least.

    Returns:
        the new pair, of the same product, or nothing at the end of the ladder.
    """
    for factor in range(2, batch_size + 1):
        if batch_size % factor == 0:
            smaller = batch_size // factor
            return (smaller, accumulation_steps * factor) if smaller >= fewest else None
    return None


@dataclass
class MicroBatches:
    """How an update's images are divided into forward passes.

    Attributes:
        batch_size: images per forward pass of one process.
        steps: forward passes per update.
        fewest: images that a forward pass needs at least.
        compares_images: whether the loss compares all images of a pass with each other.
        world: this process among all.
        device: where the passes run.
    """

    batch_size: int
    steps: int
    fewest: int
    compares_images: bool
    world: distribution.World
    device: torch.device

    def too_large(self, step: int, error: BaseException) -> str:
        """What to say of a pass that ran out of memory."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no memory left"
        return f"step {step}: out of memory on {self.device} with data.batch_size={self.batch_size} ({reason})"

    def shrink(self, problem: str) -> None:
        """Take the next rung after memory ran out in a step.

        Args:
            problem: what ran out, for messages.

        Raises:
            UserError: no rung is left, or other processes wait in an exchange that this one cannot join any more.
        """
        rung = next_rung(self.batch_size, self.steps, self.fewest)
        if rung is None:
            raise UserError(f"{problem}; {_SMALLER}")
        if self.world.size > 1:
            raise UserError(
                f"process {self.world.rank}: {problem}; the other processes wait for it, so the run ends; go on with "
                f"data.batch_size={rung[0]} training.accumulation_steps={rung[1]} --resume auto (torchrun --max-restarts "
                "does so by itself)"
            )
        self._take(rung, problem)

    def agree(self, step: int, trial: Callable[[], str | None]) -> bool:
        """Before the first step of several processes: the largest rung that fits in every one of them.

        Each process tries the passes of one micro-batch by itself, without any exchange, so that one that runs out of
        memory leaves nobody waiting; then they vote. Sizes are constant over a run, so what fits once fits again.

        Args:
            step: the first step, for messages.
            trial: passes of one micro-batch of the present size; what was said when memory ran out.

        Returns:
            whether the division is another one now, and `trial` has to be asked again.

        Raises:
            UserError: no rung is left.
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

    def _take(self, rung: tuple[int, int], why: str) -> None:
        log.warning(
            "%s; going on with micro-batches of %d x %d instead of %d x %d, %d images per update as before",
            why,
            *rung,
            self.batch_size,
            self.steps,
            self.batch_size * self.steps * self.world.size,
        )
        if self.compares_images:
            log.warning(
                "terms of the loss that compare the images of a micro-batch now see %d at a time",
                rung[0] * self.world.size,
            )
        self.batch_size, self.steps = rung
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
