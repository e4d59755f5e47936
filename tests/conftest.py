"""Shared by the tests: a configuration whose runs take a fraction of a second."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hjepa.config import Config, load_config
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.training import Outcome, run_training

# Files that take longest. They start first, so that no worker is left with one of them when the others have finished.
SLOW = (
    "config/test_every_key.py",
    "training/test_processes.py",
    "training/test_run.py",
    "benchmarks/test_benchmarks.py",
    "benchmarks/test_several_processes.py",
    "cli/test_program.py",
    "examples/test_minimal.py",
    "benchmarks/test_stress.py",
    "visualization/test_report.py",
    "config/test_presets.py",
    "training/test_guards.py",
    "test_documents.py",
    "research/test_ablate_command.py",
)


def pytest_configure() -> None:
    """Let Ctrl-C work in the tests and in the programs they start.

    A shell that starts the tests in the background makes them ignore it, and programs inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order by file, the slow ones first."""
    rank = {Path(__file__).parent / name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path, len(SLOW)))


# More threads do not speed up tiny tensors, and the machine may be shared.
torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "model": {
        "encoder_type": "vit_tiny_patch4_16",
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "predictor": {"depth": 1, "embed_dim": 16, "num_heads": 1},
    },
    "data": {"dataset": "shapes", "image_size": 16, "subset": 96, "batch_size": 16},
    "masking": {"num_masks": 2},
    "training": {"epochs": 2, "warmup_epochs": 0.5, "lr": 1e-3},
    "logging": {"log_frequency": 1, "tensorboard": {"enabled": False}},
    "evaluation": {"eval_frequency": 1, "online_images": 48, "final": False, "test_images": 200},
    "checkpoint": {"save_frequency": 1},
    "device": "cpu",
    "seed": 0,
}


def tiny_config(overrides: Mapping[str, Any] | None = None) -> Config:
    """The tiny configuration with the given dotted keys replaced."""
    return load_config(TINY, dict(overrides or {}))


def script(name: str) -> ModuleType:
    """Import a program from the folder ``scripts`` as a module."""
    file = Path(__file__).parents[1] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Observed:
    """What can be observed of a finished run."""

    outcome: Outcome
    folder: Path
    records: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    state: dict[str, Any]
    log: str

    @property
    def weights(self) -> torch.Tensor:
        """All weights of context encoder and predictor as one vector."""
        return torch.cat(
            [v.flatten() for n, v in sorted(self.state["model_state_dict"].items()) if not n.startswith("target")]
        )

    def files(self) -> set[str]:
        """Paths of everything in the run folder, relative to it."""
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


Run = Callable[..., Observed]


def run_tiny(folder: Path, overrides: Mapping[str, Any] | None = None, resume: str | None = None) -> Observed:
    """Train the tiny configuration into a folder and read the results back."""
    outcome = run_training(tiny_config(overrides), output_dir=folder, resume=resume, console=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Observed(
        outcome=outcome,
        folder=folder,
        records=[line for line in lines if line["kind"] == "train"],
        evals=[line for line in lines if line["kind"] == "eval"],
        state=read_checkpoint(outcome.checkpoint),
        log=(folder / "training.log").read_text(),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Train the tiny configuration with dotted keys replaced, each call in a new folder by default."""
    count = 0

    def call(
        overrides: Mapping[str, Any] | None = None, *, folder: Path | None = None, resume: str | None = None
    ) -> Observed:
        nonlocal count
        count += 1
        return run_tiny(folder or tmp_path / f"run{count}", overrides, resume)

    return call
