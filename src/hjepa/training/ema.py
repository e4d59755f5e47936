"""The target encoder's update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hjepa.runtime.dtensor import local_part


class TargetUpdate:
    """Exponential moving average ``target = m * target + (1 - m) * context``, one fused call for all parameters.

    Args:
        context, target: encoders of the same structure, spread over processes alike: each moves the part that it holds.
    """

    def __init__(self, context: nn.Module, target: nn.Module) -> None:
        self._context: list[Tensor] = list(context.parameters())
        self._target: list[Tensor] = list(target.parameters())

    @torch.no_grad()
    def __call__(self, momentum: float, made: Tensor | None = None) -> None:
        """Move the target towards the context encoder; called once per optimiser step.

        Args:
            momentum: of this step.
            made: whether the context encoder moved, if only the device knows (bool scalar): where not, nor does the target.
        """
        # Asked for each time: FSDP may lay its parts out anew.
        target, context = ([local_part(p) for p in parameters] for parameters in (self._target, self._context))
        if made is None:
            torch._foreach_lerp_(target, context, 1.0 - momentum)
            return
        away = torch._foreach_sub(context, target)
        torch._foreach_mul_(away, torch.where(made, 1.0 - momentum, 0.0))
        torch._foreach_add_(target, away)
