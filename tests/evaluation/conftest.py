"""Tiny trained runs for all evaluation tests."""

from pathlib import Path

import pytest

from hjepa.config import load_config
from hjepa.training import run_training

TINY = {
    "model": {
        "encoder_type": "vit_tiny_patch4_16",
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_hierarchies": 2,
        "predictor": {"depth": 1, "embed_dim": 16, "num_heads": 2},
    },
    "data": {"dataset": "shapes", "image_size": 16, "batch_size": 16, "subset": 200},
    "training": {"epochs": 1, "warmup_epochs": 0, "lr": 1e-3, "max_steps": 4},
    "logging": {"tensorboard": {"enabled": False}},
    "evaluation": {"train_images": 80, "test_images": 60, "online_images": 40},
    "seed": 3,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run with two levels, trained for four steps."""
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    run_training(load_config(TINY), output_dir=folder, console=False)
    return folder


@pytest.fixture(scope="session")
def flat_run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the same run with one level."""
    folder = tmp_path_factory.mktemp("evaluation") / "flat"
    run_training(load_config(TINY, {"model.num_hierarchies": 1}), output_dir=folder, console=False)
    return folder


@pytest.fixture(scope="session")
def deep_run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run with six blocks and a level after each."""
    folder = tmp_path_factory.mktemp("evaluation") / "deep"
    changes = {"model.depth": 6, "model.levels": [{"depth": depth} for depth in range(1, 7)]}
    run_training(load_config(TINY, changes), output_dir=folder, console=False)
    return folder
