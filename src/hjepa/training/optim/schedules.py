"""Learning rate and weight decay as functions of the optimiser step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa.methods.schedule import cosine

if TYPE_CHECKING:
    from hjepa.config import Config

# The batch size that published learning rates usually refer to (Goyal et al., arXiv:1706.02677).
REFERENCE_BATCH = 256


@dataclass(frozen=True)
class Schedules:
    """Values scheduled over a run, as pure functions of the step, so that resuming needs no state.

    Attributes:
        config: the configuration.
        steps_per_epoch: optimiser steps per epoch.
        global_batch: images per optimiser step over all processes.
    """

    config: Config
    steps_per_epoch: int
    global_batch: int

    @property
    def total_steps(self) -> int:
        """Length of the schedules in optimiser steps."""
        return max(1, round(self.config.training.epochs * self.steps_per_epoch))

    @property
    def lr_factor(self) -> float:
        """Factor by which the scaling rule multiplies every learning rate."""
        ratio = self.global_batch / REFERENCE_BATCH
        return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.config.training.lr_scaling]

    @property
    def peak_lr(self) -> float:
        """The highest learning rate, which the warm-up ends with."""
        return self.config.training.lr * self.lr_factor

    def lr(self, step: int) -> float:
        """Learning rate of the update at ``step`` (0-based); the warm-up includes step 0."""
        t = self.config.training
        warmup = t.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            value = t.warmup_lr + (t.lr - t.warmup_lr) * (step + 1) / (warmup + 1)
        elif t.lr_schedule == "constant":
            cooldown = t.cooldown_epochs * self.steps_per_epoch
            left = self.total_steps - step
            value = t.lr if left > cooldown else t.min_lr + (t.lr - t.min_lr) * left / (cooldown + 1)
        else:
            share = _share(step - warmup, self.total_steps - warmup)
            fall = 0.5 * (1 + math.cos(math.pi * share)) if t.lr_schedule == "cosine" else 1 - share
            value = t.min_lr + (t.lr - t.min_lr) * fall
        return value * self.lr_factor

    def weight_decay(self, step: int) -> float:
        """Weight decay at ``step``: constant, or a cosine from start to end."""
        t = self.config.training
        if t.weight_decay_end is None:
            return t.weight_decay
        return cosine(t.weight_decay, t.weight_decay_end, _share(step, self.total_steps))


def _share(done: float, total: float) -> float:
    return min(1.0, max(0.0, done / max(1.0, total)))
