"""The target encoder's update."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TargetUpdate:
    """Exponential moving average ``target = m * target + (1 - m) * context``, one fused call for all parameters.

    Args:
        context, target: encoders of the same structure.
    """

    def __init__(self, context: nn.Module, target: nn.Module) -> None:
        self._context: list[Tensor] = list(context.parameters())
        self._target: list[Tensor] = list(target.parameters())

    @torch.no_grad()
    def __call__(self, momentum: float) -> None:
        """Move the target towards the context encoder; called once per optimiser step."""
        torch._foreach_lerp_(self._target, self._context, 1.0 - momentum)
