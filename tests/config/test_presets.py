"""Every preset can be trained: a few steps on random images, on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hjepa.benchmark.step import benchmark_step
from hjepa.config import load_config, presets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", presets())
def test_a_preset_trains(name: str) -> None:
    small = {"data.batch_size": 2, "device": "cpu", "training.compile": False, "training.num_threads": 1}
    # A processor without bf16 emulates it hundreds of times slower; mixed precision has tests of its own.
    small["training.use_amp"] = False
    small["loss.candidate_images"] = 2  # a batch of two has no more
    result = benchmark_step(load_config(name, small), seconds=0.1, synthetic=True)
    assert result.steps >= 3
    assert result.flop_per_image > 0


def test_presets_keep_what_is_promised_of_their_size() -> None:
    from hjepa.models import build_model

    for name, most in (("cifar10", 10e6), ("cifar10_fast", 10e6), ("cifar10_cpu", 6e6), ("quickstart", 6e6)):
        encoder = build_model(load_config(name)).context_encoder
        assert sum(p.numel() for p in encoder.parameters()) <= most


def test_the_table_of_presets_names_them_all() -> None:
    text = (ROOT / "docs" / "presets.md").read_text()
    assert all(f"| `{name}` |" in text for name in presets())
