"""Every preset can be trained: a few steps on random images, on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hjepa.benchmark.step import TimedStep
from hjepa.config import load_config, presets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", presets())
def test_a_preset_trains(name: str) -> None:
    small = {"data.batch_size": 2, "device": "cpu", "training.compile": False, "training.num_threads": 1}
    # A CPU without bf16 emulates it hundreds of times slower; mixed precision has its own tests.
    small["training.use_amp"] = False
    small["loss.candidate_images"] = 2  # no more than the batch of two
    step = TimedStep(load_config(name, small), synthetic=True)
    before = [parameter.detach().clone() for parameter in step.trainer.method.parameters()]
    for _ in range(2):
        step()
    assert step.cost.total > 0
    assert step.trainer.skips.count == 0
    after = list(step.trainer.method.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_preset_encoders_have_at_most_the_documented_size() -> None:
    from hjepa.models import build_model

    for name, most in (("cifar10", 10e6), ("cifar10_fast", 10e6), ("cifar10_cpu", 6e6), ("quickstart", 6e6)):
        encoder = build_model(load_config(name)).context_encoder
        assert sum(p.numel() for p in encoder.parameters()) <= most


def test_the_table_of_presets_is_complete() -> None:
    text = (ROOT / "docs" / "presets.md").read_text()
    assert all(f"| `{name}` |" in text for name in presets())
