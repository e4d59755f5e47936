"""The exponential moving average of the target encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hjepa.methods.schedule import Horizon, cosine
from hjepa.runtime.dtensor import local_part

if TYPE_CHECKING:
    from hjepa.config import EmaConfig


class MovingAverage:
    """``target = m * target + (1 - m) * context``, one fused call for all parameters.

    Args:
        context, target: networks of the same structure; if sharded, then alike, so that each process updates its shard.
    """

    def __init__(self, context: nn.Module, target: nn.Module) -> None:
        self._context, self._target = context, target

    @torch.no_grad()
    def __call__(self, momentum: float, made: Tensor | None = None) -> None:
        """Move the target towards the context network; called once per optimiser step.

        Args:
            momentum: of this step.
            made: whether the context network was updated, if only the device knows (bool scalar); if not, the target
                does not move either.
        """
        # Read on every call, as FSDP may replace its shards.
        target, context = ([local_part(p) for p in network.parameters()] for network in (self._target, self._context))
        if made is None:
            torch._foreach_lerp_(target, context, 1.0 - momentum)
            return
        away = torch._foreach_sub(context, target)
        torch._foreach_mul_(away, torch.where(made, 1.0 - momentum, 0.0))
        torch._foreach_add_(target, away)


def ema_momentum(ema: EmaConfig, horizon: Horizon, step: int) -> float:
    """Momentum after ``step``: a linear rise from 0, then a cosine from start to end (DINO, arXiv:2104.14294).

    Args:
        ema: the ``model.ema`` section.
        horizon: length of the run.
        step: optimiser step, 0-based.
    """
    warmup = ema.momentum_warmup_epochs * horizon.steps_per_epoch
    if step < warmup:
        return ema.momentum * step / warmup
    return cosine(ema.momentum, ema.momentum_end, horizon.share(step, warmup))
