"""Tiny real runs of every kind that figures and reports support."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.health.conftest import TINY

from hjepa.config import load_config
from hjepa.evaluation import evaluate
from hjepa.training import run_training


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two depths, one channel, labels, finished and evaluated."""
    folder = tmp_path_factory.mktemp("labelled") / "run"
    run_training(load_config(TINY), output_dir=folder, console=False)
    evaluate(folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of colour pictures without labels."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.Generator(np.random.Philox(key=1))
    for index in range(40):
        Image.fromarray(draw.integers(0, 255, (12, 18, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def unlabelled_run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """One level, no labels, images wider than high, stopped after two steps, never evaluated."""
    folder = tmp_path_factory.mktemp("unlabelled") / "run"
    changes = {
        "model.num_hierarchies": 1,
        "data.dataset": "folder",
        "data.data_path": str(pictures),
        "data.subset": None,
        "data.image_size": [16, 24],
        "training.max_steps": 2,
    }
    run_training(load_config(TINY, changes), output_dir=folder, console=False)
    return folder


@pytest.fixture(scope="session")
def pooled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three levels, two of them pooled, one of those along rows alone, hierarchical masks, one epoch of Muon."""
    folder = tmp_path_factory.mktemp("pooled") / "run"
    changes = {
        "model.levels": [{"depth": 1}, {"depth": 2, "stride": [1, 2]}, {"depth": 2, "stride": 4}],
        "masking": {"strategy": "hierarchical", "num_masks": 1, "level_growth": 1.2},
        "training": {"epochs": 1, "warmup_epochs": 0, "optimizer": "muon"},
    }
    run_training(load_config(TINY, changes), output_dir=folder, console=False)
    return folder


@pytest.fixture(scope="session")
def deep_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many levels as can be listed, one after every block."""
    folder = tmp_path_factory.mktemp("deep") / "run"
    changes = {"model.depth": 8, "model.levels": [{"depth": d} for d in range(1, 9)], "training.max_steps": 4}
    run_training(load_config(TINY, changes), output_dir=folder, console=False)
    return folder
