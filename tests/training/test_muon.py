"""Muon: orthogonal updates, scaled like those of AdamW, and equal to those of `torch.optim.Muon`."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_config
from torch import nn

from hjepa.methods import build_method
from hjepa.training.optim.build import OptimizerPair, build_optimizer
from hjepa.training.optim.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 64), (2, 64, 16)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.3
    assert values.max() < 1.3
    # Singular vectors are kept: in the basis of the matrix's own singular vectors the result is diagonal and positive.
    matrix = torch.randn(shape[1:], generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    aligned = u.T @ orthogonalise(matrix[None])[0] @ vh.T
    assert torch.allclose(aligned, aligned.diag().diag(), atol=1e-4)
    assert (aligned.diag() > 0).all()


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, number: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    for _ in range(number):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(24, 24), (16, 48)])
def test_muon_equals_pytorchs(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    moved = steps(Muon([{"params": [ours]}], lr=0.01, weight_decay=0.1), ours) - start
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    expected = steps(reference, theirs) - start
    # PyTorch computes the products in bf16.
    assert (moved - expected).norm() < 0.02 * expected.norm()


def test_pieces_of_a_parameter_are_orthogonalised_separately() -> None:
    start = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(4))
    whole = nn.Parameter(start.reshape(48, 16).clone())
    together = steps(Muon([{"params": [whole], "pieces": 3}], lr=0.01), whole).view(3, 16, 16)
    for piece in range(3):
        alone = nn.Parameter(start[piece].clone())
        optimizer = Muon([{"params": [alone]}], lr=0.01)
        generator = torch.Generator().manual_seed(2)
        for _ in range(4):
            alone.grad = torch.randn((48, 16), generator=generator).view(3, 16, 16)[piece]
            optimizer.step()
        assert torch.allclose(alone.detach(), together[piece], atol=1e-5)


def test_an_update_is_as_large_as_one_of_adamw() -> None:
    parameter = nn.Parameter(torch.zeros(64, 256))
    moved = steps(Muon([{"params": [parameter]}], lr=0.01), parameter, number=1)
    assert moved.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.15)


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_bf16_updates_are_close_to_float32(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    exact, short = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    expected = steps(Muon([{"params": [exact]}], lr=0.01), exact) - start
    moved = steps(Muon([{"params": [short]}], lr=0.01, bf16=True), short) - start
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, expected)
    assert (moved - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("use_amp", "amp_dtype", "expected"), [(True, "bf16", True), (True, "fp16", False), (False, "bf16", False)]
)
def test_a_run_in_bf16_orthogonalises_in_bf16(use_amp: bool, amp_dtype: str, expected: bool) -> None:
    keys = {"training.optimizer": "muon", "training.use_amp": use_amp, "training.amp_dtype": amp_dtype}
    config = tiny_config(keys)
    pair = build_optimizer(build_method(config), config.training)
    assert isinstance(pair, OptimizerPair)
    (muon,) = (member for member in pair.members if isinstance(member, Muon))
    assert muon.bf16 is expected
