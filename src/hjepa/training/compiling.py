"""Whether `torch.compile` pays for itself in a run: measured once, on random pictures, before the first step."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from hjepa.training import distribution

if TYPE_CHECKING:
    from hjepa.config import Config

log = logging.getLogger("hjepa")

# Compilation takes most of a minute or more; no shorter run gets that back.
FEWEST_STEPS = 2000
_STEPS = 8


@dataclass(frozen=True)
class CompileTrial:
    """Seconds of a training step without and with compilation, and of compiling.

    Attributes:
        eager, compiled: median seconds per step.
        preparation: what the first compiled steps took longer than those after them.
    """

    eager: float
    compiled: float
    preparation: float

    def saves(self, steps: int) -> float:
        """Seconds that compilation saves over so many steps; negative when it costs."""
        return steps * (self.eager - self.compiled) - self.preparation


def try_compile(config: Config) -> CompileTrial:
    """Train a few steps on random pictures, eager and compiled in turn, on copies that are thrown away.

    Random states are left as they were. In several processes all of them must call it.
    """
    from hjepa.training.benchmark import TimedStep

    with torch.random.fork_rng():
        steps = {}
        for compile_it in (False, True):
            keys = {"compile": compile_it, "num_threads": torch.get_num_threads()}
            settings = config.model_copy(update={"training": config.training.model_copy(update=keys)})
            steps[compile_it] = TimedStep(settings, synthetic=True)
        steps[False]()
        started = time.perf_counter()
        # The first step compiles; the second may, for strides and gradients that were not there before.
        for _ in range(2):
            steps[True]()
        preparation = time.perf_counter() - started
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(_STEPS):
            for compile_it, step in steps.items():
                seconds[compile_it].append(step())
    compiled = median(seconds[True])
    return CompileTrial(median(seconds[False]), compiled, preparation - 2 * compiled)


def decide_compile(config: Config, steps: int) -> bool:
    """Whether to compile the networks of a run that starts now.

    Args:
        config: with `training.compile` true, false or `auto`.
        steps: optimiser steps of the run.
    """
    wanted = config.training.compile
    if wanted != "auto":
        return wanted
    if steps < FEWEST_STEPS:
        log.info("training.compile=auto: not compiled, %d steps are fewer than %d", steps, FEWEST_STEPS)
        return False
    trial = try_compile(config)
    # One process decides for all.
    choice = distribution.from_main(trial.saves(steps) > 0)
    log.info(
        "training.compile=auto: %s; %.0f ms a step eager, %.0f ms compiled, %.0f s to compile, %d steps",
        "compiled" if choice else "not compiled",
        trial.eager * 1e3,
        trial.compiled * 1e3,
        trial.preparation,
        steps,
    )
    return choice
