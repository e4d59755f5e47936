"""Muon, with an orthogonalisation that processors can afford."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hjepa.runtime import distribution

# Coefficients of the quintic Newton-Schulz step (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/): the
# steepest slope at zero that keeps singular values within about 0.7 to 1.2 after five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose updates are made orthogonal: every direction of a weight matrix learns equally fast.

    `torch.optim.Muon` orthogonalises in bf16, one matrix at a time. A processor without bf16 arithmetic emulates it: a
    step of a ViT of width 128 takes seconds there. Here processors compute in float32 unless told otherwise, and
    matrices of one shape go through one batched product, each process of a run taking its share of them. The rows of a
    query-key-value projection are three matrices in one and are treated as three.

    Updates are scaled to the root-mean-square of AdamW's (Liu et al., arXiv:2502.16982, section 2.2), so that both
    follow one learning rate.

    Args:
        groups: parameter groups, each with ``params`` (matrices), and optionally ``pieces``: into how many matrices
            along the first axis each parameter is cut.
        lr: learning rate.
        momentum: of the gradients, Nesterov's kind.
        weight_decay: decoupled, times the learning rate.
        bf16: orthogonalise in bf16 on a processor too, one that has instructions for it. CUDA GPUs always do.

    Attributes:
        found_inf: scalar that says by 1 that gradients are not finite and everything has to stay as it is, in the manner
            of PyTorch's fused optimisers, so that no host has to wait and look.
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
            # Chosen, not multiplied: what is thrown away may be NaN.
            momentum, change = torch.where(made, momentum, before), torch.where(made, change, 0.0)
        torch._foreach_copy_(momenta, list(momentum.unbind()))
        torch._foreach_add_(parameters, list(change.unbind()))

    def _orthogonalise(self, matrices: Tensor) -> Tensor:
        """Every process has the same gradients: processors divide the matrices among them; a GPU has them done sooner
        than sent."""
        if matrices.is_cuda:
            return orthogonalise(matrices, torch.bfloat16)
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        return distribution.divide_work(lambda part: orthogonalise(part, dtype).to(part.dtype), matrices)


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: all singular values come close to 1.

    Args:
        matrices: [P, rows, columns].
        dtype: what to compute in.

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
