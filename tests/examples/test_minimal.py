"""The example learns: after a few steps it is better than when untrained."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FILE = Path(__file__).parents[2] / "examples" / "minimal.py"


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_is_short() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 150


def test_target_starts_equal_to_the_context_encoder_and_follows_it(minimal: ModuleType) -> None:
    model = minimal.MinimalHJEPA()
    pairs = list(zip(model.context_encoder.parameters(), model.target_encoder.parameters(), strict=True))
    assert all(torch.equal(context, target) for context, target in pairs)
    with torch.no_grad():
        pairs[0][0].add_(1.0)
    model.follow(0.75)
    assert torch.allclose(pairs[0][0] - pairs[0][1], torch.tensor(0.75))


def test_the_example_learns(minimal: ModuleType) -> None:
    torch.manual_seed(0)
    before, _ = minimal.score(minimal.MinimalHJEPA(), references=1500, queries=600)
    after, rank = minimal.score(minimal.train(80), references=1500, queries=600)
    assert after > before + 0.03
    assert rank > 2


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_a_number_of_steps_that_trains_nothing_is_refused_in_one_line(steps: str) -> None:
    command = [sys.executable, str(FILE), "--steps", steps]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert (ended.stdout, ended.stderr) == ("", f"minimal.py: --steps: {steps} trains nothing; give 1 or more\n")
