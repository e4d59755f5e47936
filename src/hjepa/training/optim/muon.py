"""Muon, with an orthogonalisation that is affordable on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hjepa.runtime import distribution

# Coefficients of the quintic Newton-Schulz step (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/): the
# steepest slope at zero for which singular values end within about 0.7 to 1.2 after five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, so that every direction of a weight matrix learns equally fast.

    `torch.optim.Muon` orthogonalises in bf16, one matrix at a time. A CPU without bf16 instructions emulates them, and
    one step of a ViT of width 128 takes seconds. Here CPUs compute in float32 by default, matrices of equal shape are
    batched, and the processes of a run share the work. A fused query-key-value projection is treated as three matrices.

    Updates are scaled to the root-mean-square of AdamW's (Liu et al., arXiv:2502.16982, section 2.2), so that one
    learning rate suits both.

    Args:
        groups: parameter groups, each with ``params`` (matrices), and optionally ``pieces``: the number of matrices
            that each parameter is split into along its first axis.
        lr: learning rate.
        momentum: Nesterov momentum.
        weight_decay: decoupled, multiplied by the learning rate.
        bf16: orthogonalise in bf16 on a CPU too; worth it if the CPU has bf16 instructions. CUDA GPUs always use bf16.

    Attributes:
        found_inf: scalar tensor; 1 means that gradients are not finite and the step must change nothing. As in
            PyTorch's fused optimisers, this avoids a synchronisation with the host.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "pieces": 1})
        self.bf16 = bf16
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        made = None if self.found_inf is None else self.found_inf == 0
        for group in self.param_groups:
            by_shape: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameters, gradients = by_shape.setdefault(parameter.shape, ([], []))
                    parameters.append(parameter)
                    gradients.append(parameter.grad)
            for parameters, gradients in by_shape.values():
                self._update(parameters, gradients, group, made)

    def _update(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any], made: Tensor | None
    ) -> None:
        momenta = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momenta.append(state["momentum_buffer"])
        before, gradient = torch.stack(momenta), torch.stack(gradients)  # [P, rows, columns]
        momentum = before.lerp(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])
        count, rows, columns = ahead.shape
        rows //= group["pieces"]
        change = self._orthogonalise(ahead.view(-1, rows, columns)).view(count, -1, columns).to(ahead.dtype)
        change *= -group["lr"] * 0.2 * max(rows, columns) ** 0.5
        change -= group["lr"] * group["weight_decay"] * torch.stack(parameters)
        if made is not None:
            # `where`, not a product with 0: the discarded values may be NaN.
            momentum, change = torch.where(made, momentum, before), torch.where(made, change, 0.0)
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        torch._foreach_add_(parameters, list(change.unbind()))

    def _orthogonalise(self, matrices: Tensor) -> Tensor:
        """Orthogonalise. All processes hold the same gradients: on CPUs they divide the matrices among them; on GPUs
        each computes all, which takes less time than exchanging them."""
        if matrices.is_cuda:
            return orthogonalise(matrices, torch.bfloat16)
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        return distribution.divide_work(lambda part: orthogonalise(part, dtype).to(part.dtype), matrices)


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices: all singular values come close to 1.

    Args:
        matrices: [P, rows, columns].
        dtype: type to compute in.

    Returns:
        [P, rows, columns] of that type.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(_EPS)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


def flop_of_orthogonalising(rows: int, columns: int) -> float:
    """FLOP of `orthogonalise` for one matrix: in each step the Gram matrix of the shorter side, its square, and their
    product with the matrix."""
    short, long = sorted((rows, columns))
    return _STEPS * (2.0 * 2 * short * short * long + 2 * short**3)
