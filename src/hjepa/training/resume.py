"""Resume at another batch size, number of processes, images or length: progress is counted in epochs, not in steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hjepa.config import load_config
from hjepa.errors import UserError
from hjepa.methods import Horizon
from hjepa.training.optim.schedules import Schedules

if TYPE_CHECKING:
    from hjepa.methods import Method

log = logging.getLogger("hjepa")

# A smaller relative change of a scheduled value between two steps is within the schedule's own.
_SMALL = 0.05
# A smaller change of the momentum does not matter, however close the momentum is to 1.
_SMALL_MOMENTUM = 1e-5


def resumed_step(state: dict[str, Any], now: Schedules, method: Method | None = None) -> int:
    """The optimiser step to resume from.

    If the number of steps in an epoch has changed (batch size, accumulation, processes or images), the step is
    converted so that the same number of epochs is done. If ``training.epochs`` has changed so that the learning rate,
    the weight decay or a hyperparameter of the method would jump, resuming is refused unless
    ``training.resume_schedule`` is ``stretch``.

    Args:
        state: of the checkpoint.
        now: schedules of the resumed run.
        method: whose hyperparameters are compared; its horizon is set to that of ``now``.

    Returns:
        the step, counted as in ``now``.

    Raises:
        UserError: a scheduled value would jump because ``training.epochs`` has changed.
    """
    before = schedules_of(state, now)
    step = int(state["step"])
    converted = _converted(step, before, now)
    _check_course(before, converted, now, method)
    return converted


def _converted(step: int, before: Schedules, now: Schedules) -> int:
    if (before.global_batch, before.steps_per_epoch) == (now.global_batch, now.steps_per_epoch):
        return step
    epochs = step / before.steps_per_epoch
    converted = round(epochs * now.steps_per_epoch)
    if step >= before.total_steps and now.config.training.epochs <= before.config.training.epochs:
        converted = max(converted, now.total_steps)
    elif epochs < now.config.training.epochs:
        # Rounding neither finishes a run nor takes it back to its untrained weights.
        converted = min(max(min(1, step), converted), now.total_steps - 1)
    what = f"{now.steps_per_epoch} steps per epoch instead of {before.steps_per_epoch}"
    rates = ""
    if before.global_batch != now.global_batch:
        what = f"{now.global_batch} images per update instead of {before.global_batch}"
        rates = (
            f"; learning rates are scaled by training.lr_scaling={now.config.training.lr_scaling} "
            f"(x {now.lr_factor:.3g} instead of x {before.lr_factor:.3g})"
        )
    log.warning(
        "resuming with %s: at epoch %.2f, step %d of %d becomes step %d of %d%s",
        what,
        epochs,
        step,
        before.total_steps,
        converted,
        now.total_steps,
        rates,
    )
    return converted


def _check_course(before: Schedules, converted: int, now: Schedules, method: Method | None) -> None:
    """Refuse a jump of a scheduled value caused by another ``training.epochs``."""
    old, new = before.config.training, now.config.training
    if old.epochs == new.epochs or converted >= now.total_steps:
        return
    # Compare the values with only training.epochs changed, so that other changed keys do not count.
    planned = Schedules(
        now.config.model_copy(update={"training": new.model_copy(update={"epochs": old.epochs})}),
        now.steps_per_epoch,
        now.global_batch,
    )
    was, will = _values(planned, max(0, converted - 1), method), _values(now, converted, method)
    jumps = [
        f"the {name} would jump from {_text(name, was[name])} to {_text(name, will[name])}"
        for name in will
        if _jumps(name, was[name], will[name])
    ]
    if not jumps:
        return
    jump = (
        f"training.epochs: the run was planned for {old.epochs:g} epoch{'' if old.epochs == 1 else 's'} and is at epoch "
        f"{converted / now.steps_per_epoch:.2f}; with {new.epochs:g}, {' and '.join(jumps)}"
    )
    if new.resume_schedule == "stretch":
        log.warning("%s; allowed by training.resume_schedule=stretch", jump)
        return
    constant = ["training.lr_schedule=constant"]
    if "momentum" in will:
        constant.append("model.ema.momentum_end equal to model.ema.momentum")
    if new.weight_decay_end is not None:
        constant.append("training.weight_decay_end=null")
    raise UserError(
        f"{jump}; keep training.epochs={old.epochs:g}, start a new run, or accept the jump with "
        f"training.resume_schedule=stretch (for runs to be extended later, use {' and '.join(constant)})"
    )


def _values(schedules: Schedules, step: int, method: Method | None) -> dict[str, float]:
    """What is scheduled over the run, at a step, by name."""
    values = {"learning rate": schedules.lr(step), "weight decay": schedules.weight_decay(step)}
    if method is not None:
        method.start(Horizon(schedules.steps_per_epoch, schedules.total_steps))
        values |= method.hyperparameters(step)
    return values


def _text(name: str, value: float) -> str:
    return f"{value:.6g}" if name == "momentum" else f"{value:.3g}"


def _jumps(name: str, was: float, will: float) -> bool:
    change = abs(will - was)
    if name == "momentum":
        # The distance from 1 is the share of the context network that the target takes up in a step.
        return change > max(_SMALL_MOMENTUM, _SMALL * max(1 - was, 1 - will))
    return change > _SMALL * max(abs(was), abs(will))


def schedules_of(state: dict[str, Any], now: Schedules) -> Schedules:
    """The schedules that the checkpoint's run followed."""
    config = load_config(state["config"])
    if "global_batch" in state:
        return Schedules(config, int(state["steps_per_epoch"]), int(state["global_batch"]))
    # Checkpoints of version 0.1 lack these numbers; derive them from the configuration and the process states.
    processes = 1 + len(state.get("processes", ()))
    batch = config.data.batch_size * config.training.accumulation_steps * processes
    images = int(state.get("data", {}).get("images", now.steps_per_epoch * now.global_batch))
    return Schedules(config, max(1, images // batch), batch)
