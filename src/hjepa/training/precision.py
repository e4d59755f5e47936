"""Mixed precision: whether it pays on a device, and forward passes and updates in it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from hjepa.training import distribution
from hjepa.training.peak import matmul_peak

if TYPE_CHECKING:
    from hjepa.config import Config, TrainingConfig
    from hjepa.training.optimizer import OptimizerPair

log = logging.getLogger("hjepa")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Where a processor has instructions for bf16, its products take half of float32's time or less, and elsewhere many times as
# much: a quick look at small ones is enough.
_LEAST_GAIN = 1.5
_SIDE = 512


def settle_precision(config: Config, device: torch.device, state: Mapping[str, Any] | None = None) -> Config:
    """Turn ``training.use_amp: auto`` into yes or no: yes where matrix products of that type are much faster.

    In several processes all of them must call it; the main one decides for all.

    Args:
        config: the configuration; returned as it is unless it says ``auto``.
        device: where the model will be.
        state: what the checkpoint holds that the run goes on from: its choice stays.
    """
    training = config.training
    if training.use_amp != "auto":
        return config
    before = None if state is None else state["config"]["training"]["use_amp"]
    if isinstance(before, bool):
        choice = before
    else:
        short, full = (pace_of_products(device, dtype) for dtype in (_DTYPES[training.amp_dtype], torch.float32))
        choice = distribution.from_main(pays(short, full))
        log.info(
            "training.use_amp=auto: %s; matrix products in %s do %.0f GFLOP/s here, in float32 %.0f",
            training.amp_dtype if choice else "float32",
            training.amp_dtype,
            short / 1e9,
            full / 1e9,
        )
    return config.model_copy(update={"training": training.model_copy(update={"use_amp": choice})})


def pays(short: float, full: float) -> bool:
    """Whether mixed precision makes steps faster where products do so many FLOP/s in the short type and in float32."""
    return short > _LEAST_GAIN * full


@functools.cache
def pace_of_products(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of small matrix products; measured once per process, so that all runs of a study get one answer."""
    return matmul_peak(device, dtype, side=_SIDE)


class Precision:
    """Mixed precision of forward and backward passes.

    Args:
        config: the ``training`` section; ``use_amp: auto`` that was not settled is float32.
        device: where the model is.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self.enabled = config.use_amp is True
        self.dtype = _DTYPES[config.amp_dtype]
        self.device = device
        # Only float16 needs its gradients lifted out of the subnormal range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.enabled and self.dtype == torch.float16)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Context of a forward pass."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.enabled):
            yield

    # A GradScaler needs parameter groups and a step, which an `OptimizerPair` has, though it is no subclass.

    def unscale(self, optimizer: torch.optim.Optimizer | OptimizerPair) -> None:
        """Bring scaled gradients to their true size."""
        self.scaler.unscale_(cast(torch.optim.Optimizer, optimizer))

    def step(self, optimizer: torch.optim.Optimizer | OptimizerPair) -> None:
        """Update, unless a scaled gradient overflowed."""
        self.scaler.step(cast(torch.optim.Optimizer, optimizer))
