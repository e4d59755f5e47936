"""Mixed precision: whether it pays on a device, and forward passes and updates in it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch

from hjepa.runtime import distribution
from hjepa.runtime.peak import matmul_peak

if TYPE_CHECKING:
    from hjepa.config import Config, TrainingConfig
    from hjepa.training.optim.build import OptimizerPair

log = logging.getLogger("hjepa")

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A processor with instructions for bf16 does its products in half of float32's time or less, others take more than float32
# does, up to hundreds of times as much: a quick look at small ones is enough.
_LEAST_GAIN = 1.5
_SIDE = 512


def settle_precision(config: Config, device: torch.device, before: object = None) -> Config:
    """Turn ``training.use_amp: auto`` into yes or no: yes where matrix products of that type are much faster.

    In several processes all of them must call it; the main one decides for all.

    Args:
        config: the configuration; returned as it is unless it says ``auto``.
        device: where the model will be.
        before: what was chosen when the run or study began; that stays. Anything but a bool: nothing was.
    """
    training = config.training
    if training.use_amp != "auto":
        return config
    if isinstance(before, bool):
        choice, why = before, "as before"
    else:
        choice, why = distribution.from_main(mixed_precision_pays(device, training.amp_dtype))
    log.info("training.use_amp=auto: %s, %s", training.amp_dtype if choice else "float32", why)
    return config.model_copy(update={"training": training.model_copy(update={"use_amp": choice})})


@functools.cache
def mixed_precision_pays(device: torch.device, amp_dtype: str) -> tuple[bool, str]:
    """Whether to train in ``bf16`` or ``fp16`` rather than float32 on a device, and why. Found out once per process.

    A GPU is asked what it has; small products would say how long it takes to start one. A processor is measured.
    """
    if device.type == "cuda":
        has = amp_dtype == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
        return has, f"this GPU {'has' if has else 'lacks'} it"
    if device.type != "cpu":
        return False, f"{amp_dtype} was never measured on {device.type}"
    try:
        short = matmul_peak(device, _DTYPES[amp_dtype], side=_SIDE)
    except (RuntimeError, TypeError):
        return False, f"this PyTorch has no products in {amp_dtype} here"
    full = matmul_peak(device, torch.float32, side=_SIDE)
    paces = f"products do {short / 1e9:.0f} GFLOP/s in {amp_dtype} here and {full / 1e9:.0f} in float32"
    return short > _LEAST_GAIN * full, paces


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
