"""Synthetic evidence of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.health.synthetic_records import make_results, train_record

from hjepa.config import Config, load_config
from hjepa.health.evidence import Evidence
from hjepa.runs.records import Records

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
