"""Real, tiny runs of every shape that figures and reports have to cope with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.visualization.synthetic_records import make_results, train_record

from hjepa.config import Config, load_config
from hjepa.evaluation import evaluate
from hjepa.training import run_training
from hjepa.visualization.evidence import Evidence
from hjepa.visualization.records import Records

TINY: dict[str, Any] = {
    "model": {
        "encoder_type": "vit_tiny_patch2_16",
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_hierarchies": 2,
        "predictor": {"depth": 1, "embed_dim": 16, "num_heads": 2},
    },
    "data": {"dataset": "digits", "image_size": 16, "batch_size": 16, "subset": 64},
    "training": {"epochs": 2, "warmup_epochs": 0, "lr": 1e-3},
    "loss": {"variance_loss_weight": 0.04, "covariance_loss_weight": 0.04},
    "logging": {"tensorboard": {"enabled": False}, "log_frequency": 2, "experiment_name": "tiny & quick"},
    "evaluation": {"eval_frequency": 1, "train_images": 60, "test_images": 60, "online_images": 40},
    "seed": 5,
    "device": "cpu",
}


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
    """Three levels, two of them pooled, hierarchical masks."""
    folder = tmp_path_factory.mktemp("pooled") / "run"
    changes = {
        "model.levels": [{"depth": 1}, {"depth": 2, "stride": 2}, {"depth": 2, "stride": 4}],
        "masking": {"strategy": "hierarchical", "num_masks": 1, "level_growth": 1.2},
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


@pytest.fixture
def evidence() -> Callable[..., Evidence]:
    """Makes the evidence of a healthy run; arguments replace parts of it."""

    def make(
        *,
        results: dict[str, Any] | None = None,
        train: list[dict[str, Any]] | None = None,
        evaluations: list[dict[str, Any]] | None = None,
        step: int = 20_000,
        changes: dict[str, Any] | None = None,
        position: list[float | None] | None = None,
        scores: tuple[float, float, float] = (0.60, 0.40, 0.38),
    ) -> Evidence:
        config: Config = load_config(TINY, {"training.epochs": 100, "model.ema.momentum_end": 0.996, **(changes or {})})
        if train is None:
            train = [train_record(s) for s in range(1000, step + 1, 1000)]
        return Evidence(
            config=config,
            width=64,
            step=step,
            records=Records(train, evaluations if evaluations is not None else [], 0),
            results=make_results(*scores, step=step) if results is None else results or None,
            run="runs/x",
            position=position or [0.2, 0.3],
        )

    return make
