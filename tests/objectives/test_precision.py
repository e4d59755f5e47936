"""The objective is computed in float32 even under autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.objectives import Candidates, Objective

REGULARISERS: dict[str, Any] = {"variance": 0.6, "covariance": 0.6, "sliced_gaussian": 0.1}


def step(loss: str, *, autocast: bool, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Every term of the loss by name, and the gradients of predictions and pooled features."""
    generator = torch.Generator().manual_seed(0)
    objective = Objective(
        loss, [1.0, 0.5], temperature=0.1, candidates=Candidates(16, 5), regularise_all=True, **REGULARISERS
    )
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in 2 * [(16, 9, 32)]]
    pooled = [torch.randn(16, 32, generator=generator).to(dtype).requires_grad_() for _ in inputs]
    targets = [F.layer_norm(torch.randn(16, 9, 32, generator=generator), (32,)).to(dtype) for _ in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = objective(inputs, targets, pooled)
        chance = objective.chance(targets)
    gradients = torch.autograd.grad(terms.total, [*inputs, *pooled])
    return {"total": terms.total, "levels": terms.levels, "chance": chance, **terms.regularisers}, list(gradients)


@pytest.mark.parametrize("loss", ["infonce", "cosine", "smoothl1"])
def test_autocast_changes_neither_loss_nor_gradient(loss: str) -> None:
    plain, inside = step(loss, autocast=False), step(loss, autocast=True)
    assert inside[0].keys() == {"total", "levels", "chance", *REGULARISERS}
    assert all(term.dtype == torch.float32 for term in inside[0].values())
    assert all(torch.equal(plain[0][name], term) for name, term in inside[0].items())
    # Products in bf16 would round logits to three digits, and the gradient of InfoNCE by 0.3 to 0.9 %.
    assert all(torch.equal(a, b) for a, b in zip(plain[1], inside[1], strict=True))


@pytest.mark.parametrize("loss", ["infonce", "mse"])
def test_terms_of_half_precision_features_are_float32(loss: str) -> None:
    terms, _ = step(loss, autocast=True, dtype=torch.bfloat16)
    assert all(term.dtype == torch.float32 for term in terms.values())


def test_features_are_gathered_in_float32() -> None:
    seen = []

    def gather(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x

    objective = Objective("mse", [1.0], gather=gather, **REGULARISERS)
    x, pooled = torch.randn(16, 4, 8), torch.randn(16, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        objective([x], [x], [pooled])
    assert seen == [torch.float32]
