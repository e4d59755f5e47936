"""Going on with another batch, number of processes or length than the checkpoint's: by images seen, never by steps."""

from __future__ import annotations

import logging
from typing import Any

from hjepa.config import load_config
from hjepa.errors import UserError
from hjepa.training.optim.schedules import Schedules

log = logging.getLogger("hjepa")

# A learning rate that moves by less between two steps is the schedule's own doing.
_SMALL = 0.05


def resumed_step(state: dict[str, Any], now: Schedules) -> int:
    """The optimiser step to go on from.

    Another number of images per update (by batch size, accumulation or processes) makes the steps of a checkpoint another
    share of the run. The step is converted so that as many epochs are done as before. A longer or shorter run bends the
    schedule of the learning rate, and is refused unless ``training.resume_schedule`` says ``stretch``.

    Args:
        state: of the checkpoint.
        now: schedules of the run that goes on.

    Returns:
        the step in the terms of ``now``.

    Raises:
        UserError: the learning rate would jump because ``training.epochs`` is another one.
    """
    before = _schedules_of(state, now)
    step = int(state["step"])
    converted = _converted(step, before, now)
    _check_course(before, converted, now)
    return converted


def _converted(step: int, before: Schedules, now: Schedules) -> int:
    if before.global_batch == now.global_batch:
        return step
    epochs = step / before.steps_per_epoch
    converted = round(epochs * now.steps_per_epoch)
    ended = step >= before.total_steps and now.config.training.epochs <= before.config.training.epochs
    if not ended:
        converted = min(converted, now.total_steps - 1)
    log.warning(
        "resuming with %d images per update instead of %d: %.2f epochs are done, so step %d of %d becomes step %d of %d; the "
        "learning rate follows training.lr_scaling=%s (x %.3g instead of x %.3g)",
        now.global_batch,
        before.global_batch,
        epochs,
        step,
        before.total_steps,
        converted,
        now.total_steps,
        now.config.training.lr_scaling,
        now.lr_factor,
        before.lr_factor,
    )
    return converted


def _check_course(before: Schedules, converted: int, now: Schedules) -> None:
    """Refuse a learning rate that jumps because the run is longer or shorter than it was."""
    old, new = before.config.training, now.config.training
    if old.epochs == new.epochs or converted >= now.total_steps:
        return
    # What the rate would have been, and what it is to be, apart from other keys of the schedule.
    planned = Schedules(
        now.config.model_copy(update={"training": new.model_copy(update={"epochs": old.epochs})}),
        now.steps_per_epoch,
        now.global_batch,
    )
    was, will = planned.lr(max(0, converted - 1)), now.lr(converted)
    if abs(will - was) <= _SMALL * max(was, will):
        return
    jump = (
        f"training.epochs: the run was planned for {old.epochs:g} epochs and is at {converted / now.steps_per_epoch:.2f}; "
        f"with {new.epochs:g} its learning rate would jump from {was:.3g} to {will:.3g}"
    )
    if new.resume_schedule == "stretch":
        log.warning("%s, as training.resume_schedule=stretch allows", jump)
        return
    raise UserError(
        f"{jump}; leave training.epochs at {old.epochs:g}, start a new run, or accept the jump with "
        "training.resume_schedule=stretch (training.lr_schedule=constant suits runs that are to be extended)"
    )


def _schedules_of(state: dict[str, Any], now: Schedules) -> Schedules:
    """The schedules that the checkpoint's run followed."""
    config = load_config(state["config"])
    if "global_batch" in state:
        return Schedules(config, int(state["steps_per_epoch"]), int(state["global_batch"]))
    # Checkpoints of version 0.1: counted from the configuration and the processes whose states it holds.
    processes = 1 + len(state.get("processes", ()))
    batch = config.data.batch_size * config.training.accumulation_steps * processes
    images = int(state.get("data", {}).get("images", now.steps_per_epoch * now.global_batch))
    return Schedules(config, max(1, images // batch), batch)
