"""Times the stages of a training step with hooks and wrapped methods, without any timing code in the trainer."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.traffic import Traffic
from hjepa.benchmark.step import TimedStep
from hjepa.methods import HJepa
from hjepa.runtime.peak import synchronise

STAGES = ("data", "masks", "target", "context", "predictor", "loss", "backward", "optimiser", "moving average", "rest")

# Attributes of the trainer that are called once per step or micro-batch, the stage that begins with the call, and the
# stage that begins when it returns.
_CALLS = (
    ("method.masks", "masks", "target"),
    ("method.objective.forward", "loss", "backward"),
    ("method.after_update", "moving average", "rest"),
    ("update", "optimiser", "rest"),
)


class Laps:
    """Splits the time of training steps among `STAGES`.

    All time from the start of one stage to the start of the next counts for the first, so the stages add up to the
    whole step. `optimiser` covers gradient clipping, the check for non-finite values and the update; `rest` is
    everything else.

    Args:
        step: the step to time; its networks must not be compiled, since module hooks mark some stages.
        traffic: a counter that is informed of the current stage.
    """

    def __init__(self, step: TimedStep, traffic: Traffic | None = None) -> None:
        self.step = step
        self.traffic = traffic
        self._watching = False
        self._watch()

    def __call__(self) -> dict[str, float]:
        """Run one whole training step and return its seconds by stage."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._watching, self._stage, self._since = True, "rest", time.perf_counter()
        self.step()
        self._enter("rest")
        self._watching = False
        return {stage: self._seconds[stage] for stage in STAGES}

    def _enter(self, stage: str) -> None:
        if not self._watching:
            return
        synchronise(self.step.device)
        now = time.perf_counter()
        self._seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now
        if self.traffic is not None:
            self.traffic.stage = stage

    def _watch(self) -> None:
        trainer = self.step.trainer
        method = trainer.method
        assert isinstance(method, HJepa)
        for path, stage, after in _CALLS:
            *owners, name = path.split(".")
            owner = functools.reduce(getattr, owners, trainer)
            setattr(owner, name, _Around(getattr(owner, name), self._enter, stage, after))
        self.step.batches = self._watched(self.step.batches)
        method.model.context_encoder.register_forward_pre_hook(lambda *_: self._enter("context"))
        # Separate predictors run from coarse to fine.
        method.model.predictors[-1].register_forward_pre_hook(lambda *_: self._enter("predictor"))

    def _watched(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            self._enter("data")
            batch = next(batches)
            self._enter("rest")
            yield batch


class _Around:
    """Wraps an object: enters one stage before each call and another after it, and forwards all attributes."""

    def __init__(self, inner: Any, enter: Callable[[str], None], stage: str, after: str) -> None:
        self._inner, self._enter, self._stage, self._after = inner, enter, stage, after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._enter(self._stage)
        result = self._inner(*args, **kwargs)
        self._enter(self._after)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
