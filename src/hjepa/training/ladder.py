"""The ladder of smaller micro-batches that a run walks down when memory runs out; the effective batch stays."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from hjepa.errors import UserError
from hjepa.runtime import distribution
from hjepa.training.memory import MicroBatchTooLargeError, next_rung
from hjepa.training.parts import compares_images, fewest_images

if TYPE_CHECKING:
    from hjepa.data import Batch
    from hjepa.training.trainer import Trainer

log = logging.getLogger("hjepa")

_SMALLER = "choose a smaller model or image size, or set training.use_amp or model.gradient_checkpointing"


def step_down(trainer: Trainer, error: MicroBatchTooLargeError) -> Iterator[Batch]:
    """Take the next rung after memory ran out in a step.

    Returns:
        the batches from the same step on.

    Raises:
        UserError: no rung is left, or other processes wait in an exchange that this one cannot join any more.
    """
    world = trainer.world
    rung = next_rung(trainer.batch_size, trainer.accumulation_steps, fewest_images(trainer.config, world.size))
    if rung is None:
        raise UserError(f"{error}; {_SMALLER}") from None
    if world.size > 1:
        raise UserError(
            f"process {world.rank}: {error}; the other processes wait for it, so the run ends; go on with data.batch_size="
            f"{rung[0]} training.accumulation_steps={rung[1]} --resume auto (torchrun --max-restarts does so by itself)"
        ) from None
    _take(trainer, rung, str(error))
    return trainer.loader.batches(trainer.step, trainer.last_step)


def agree_on_micro_batch(trainer: Trainer) -> None:
    """Before the first step of several processes: the largest rung that fits in every one of them.

    Each process tries the passes of one micro-batch by itself, without any exchange, so that one that runs out of memory
    leaves nobody waiting; then they vote. Sizes are constant over a run, so what fits once fits again. With `fsdp` passes
    are exchanges, and there is no trial.

    Raises:
        UserError: no rung is left.
    """
    if trainer.world.size == 1 or trainer.strategy == "fsdp":
        return
    while True:
        problem = trainer.try_micro_batch()
        (somebody,) = distribution.vote(problem is not None)
        if not somebody:
            return
        error = (
            problem
            or f"step {trainer.step}: out of memory in another process with data.batch_size={trainer.batch_size}"
        )
        rung = next_rung(
            trainer.batch_size, trainer.accumulation_steps, fewest_images(trainer.config, trainer.world.size)
        )
        if rung is None:
            raise UserError(f"{error}; {_SMALLER}")
        _take(trainer, rung, error)


def _take(trainer: Trainer, rung: tuple[int, int], why: str) -> None:
    log.warning(
        "%s; going on with micro-batches of %d x %d instead of %d x %d, %d images per update as before",
        why,
        *rung,
        trainer.batch_size,
        trainer.accumulation_steps,
        trainer.loader.global_batch,
    )
    if compares_images(trainer.config):
        log.warning(
            "terms of the loss that compare the images of a micro-batch now see %d at a time",
            rung[0] * trainer.world.size,
        )
    trainer.split(*rung)
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()
