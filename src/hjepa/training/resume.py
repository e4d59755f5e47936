"""Resume at another batch size, number of processes or length: progress is counted in images, not in steps."""

from __future__ import annotations

import logging
from typing import Any

from hjepa.config import load_config
from hjepa.errors import UserError
from hjepa.training.optim.schedules import Schedules

log = logging.getLogger("hjepa")

# A smaller relative change of the learning rate between two steps is within the schedule's own.
_SMALL = 0.05


def resumed_step(state: dict[str, Any], now: Schedules) -> int:
    """The optimiser step to resume from.

    If the number of images per update has changed (batch size, accumulation or processes), the step is converted so
    that the same number of epochs is done. If ``training.epochs`` has changed so that the learning rate would jump,
    resuming is refused unless ``training.resume_schedule`` is ``stretch``.

    Args:
        state: of the checkpoint.
        now: schedules of the resumed run.

    Returns:
        the step, counted as in ``now``.

    Raises:
        UserError: the learning rate would jump because ``training.epochs`` has changed.
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
        "resuming with %d images per update instead of %d: at %.2f epochs, step %d of %d becomes step %d of %d; learning "
        "rates are scaled by training.lr_scaling=%s (x %.3g instead of x %.3g)",
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
    """Refuse a jump of the learning rate caused by another ``training.epochs``."""
    old, new = before.config.training, now.config.training
    if old.epochs == new.epochs or converted >= now.total_steps:
        return
    # Compare the rates with only training.epochs changed, so that other changed keys do not count.
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
        f"with {new.epochs:g} the learning rate would jump from {was:.3g} to {will:.3g}"
    )
    if new.resume_schedule == "stretch":
        log.warning("%s; allowed by training.resume_schedule=stretch", jump)
        return
    raise UserError(
        f"{jump}; keep training.epochs={old.epochs:g}, start a new run, or accept the jump with "
        "training.resume_schedule=stretch (for runs to be extended later, use training.lr_schedule=constant)"
    )


def _schedules_of(state: dict[str, Any], now: Schedules) -> Schedules:
    """The schedules that the checkpoint's run followed."""
    config = load_config(state["config"])
    if "global_batch" in state:
        return Schedules(config, int(state["steps_per_epoch"]), int(state["global_batch"]))
    # Checkpoints of version 0.1 lack these numbers; derive them from the configuration and the process states.
    processes = 1 + len(state.get("processes", ()))
    batch = config.data.batch_size * config.training.accumulation_steps * processes
    images = int(state.get("data", {}).get("images", now.steps_per_epoch * now.global_batch))
    return Schedules(config, max(1, images // batch), batch)
