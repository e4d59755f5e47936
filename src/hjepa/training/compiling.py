"""Whether `torch.compile` pays for itself in a run: measured once, on random pictures, before the first step.

In two stages: one block of the encoder is compiled in a fraction of the time, and where that gains nothing the whole
step is not tried.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from hjepa.training import distribution
from hjepa.training.device import resolve_device
from hjepa.training.precision import Precision

if TYPE_CHECKING:
    from hjepa.config import Config

log = logging.getLogger("hjepa")

# Compilation takes most of a minute or more; no shorter run gets that back.
FEWEST_STEPS = 2000
_STEPS = 8
# Share of its time that a block has to save, lest noise decide.
_LEAST_GAIN = 0.02


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


def try_block(config: Config) -> float:
    """Seconds of one encoder block on visible tokens, forward and backward, compiled over eager.

    Random states are left as they were.
    """
    from hjepa.models.blocks import Block
    from hjepa.training.parts import build_sampler
    from hjepa.training.peak import synchronise

    geometry, device = config.geometry(), resolve_device(config.device)
    precision = Precision(config.training, device)
    shape = (config.data.batch_size * config.masking.sets_per_image, build_sampler(config).counts.context)
    with torch.random.fork_rng():
        block = Block(geometry.embed_dim, geometry.num_heads, config.model.mlp_ratio, config.model.layer_scale)
        blocks = {False: block.to(device), True: copy.deepcopy(block).to(device)}
        tokens, gradient = (torch.randn(*shape, geometry.embed_dim, device=device) for _ in range(2))
    blocks[True].compile(mode=config.training.compile_mode)
    tokens.requires_grad_()

    def seconds(compiled: bool) -> float:
        synchronise(device)
        started = time.perf_counter()
        with precision.autocast():
            out = blocks[compiled](tokens)
        out.backward(gradient.to(out.dtype))
        synchronise(device)
        return time.perf_counter() - started

    taken: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 + 2 * _STEPS):
        for compiled, times in taken.items():
            found = seconds(compiled)
            # The first compiles; the second may, for gradients that were not there before.
            if turn >= 2:
                times.append(found)
    return median(taken[True]) / median(taken[False])


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
    block = distribution.from_main(try_block(config))
    if block > 1 - _LEAST_GAIN:
        log.info("training.compile=auto: not compiled, a block takes %.0f%% of its time when compiled", 100 * block)
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
