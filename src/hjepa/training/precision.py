"""Mixed precision: whether it is faster on a device, autocast and loss scaling."""

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
# CPUs with bf16 instructions multiply at least twice as fast as in float32; others emulate bf16 and are slower, up to
# hundreds of times. The gap is so wide that small products are enough to tell them apart.
_LEAST_GAIN = 1.5
_SIDE = 512


def settle_precision(config: Config, device: torch.device, before: object = None) -> Config:
    """Resolve ``training.use_amp: auto``: true where matrix products in ``amp_dtype`` are much faster.

    All processes must call it; the main one decides.

    Args:
        config: the configuration; returned unchanged unless it says ``auto``.
        device: where the model will be.
        before: the choice made when the run or study began, which is kept; ignored unless it is a bool.
    """
    training = config.training
    if training.use_amp != "auto":
        return config
    if isinstance(before, bool):
        choice, why = before, "as when the run began"
    else:
        choice, why = distribution.from_main(mixed_precision_pays(device, training.amp_dtype))
    log.info("training.use_amp=auto: %s, %s", training.amp_dtype if choice else "float32", why)
    return config.model_copy(update={"training": training.model_copy(update={"use_amp": choice})})


@functools.cache
def mixed_precision_pays(device: torch.device, amp_dtype: str) -> tuple[bool, str]:
    """Whether to train in ``bf16`` or ``fp16`` rather than float32 on a device, and why. Cached per process.

    A GPU is queried, since timing small products would measure launch latency. A CPU is timed.
    """
    if device.type == "cuda":
        has = amp_dtype == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
        return has, f"this GPU {'supports' if has else 'does not support'} {amp_dtype}"
    if device.type != "cpu":
        return False, f"{amp_dtype} is untested on {device.type}"
    try:
        short = matmul_peak(device, _DTYPES[amp_dtype], side=_SIDE)
    except (RuntimeError, TypeError):
        return False, f"this PyTorch cannot multiply {amp_dtype} matrices on this CPU"
    full = matmul_peak(device, torch.float32, side=_SIDE)
    paces = f"matrix products run at {short / 1e9:.0f} GFLOP/s in {amp_dtype}, {full / 1e9:.0f} in float32"
    return short > _LEAST_GAIN * full, paces


class Precision:
    """Mixed precision of forward and backward passes.

    Args:
        config: the ``training`` section; an unresolved ``use_amp: auto`` means float32.
        device: where the model is.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self.enabled = config.use_amp is True
        self.dtype = _DTYPES[config.amp_dtype]
        self.device = device
        # Only float16 needs loss scaling, which keeps small gradients out of the subnormal range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.enabled and self.dtype == torch.float16)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Context of a forward pass."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.enabled):
            yield

    # GradScaler only uses param_groups and step, which `OptimizerPair` has although it is not an Optimizer.

    def unscale(self, optimizer: torch.optim.Optimizer | OptimizerPair) -> None:
        """Divide scaled gradients by the loss scale."""
        self.scaler.unscale_(cast(torch.optim.Optimizer, optimizer))

    def step(self, optimizer: torch.optim.Optimizer | OptimizerPair) -> None:
        """Update, unless a scaled gradient overflowed."""
        self.scaler.step(cast(torch.optim.Optimizer, optimizer))
