"""Run folders for the tests of analysis: short real runs, and folders with synthetic records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY
from tests.health.synthetic_records import train_record

from hjepa.config import dump_config, load_config
from hjepa.training import run_training

BASE: dict[str, Any] = {
    "training.epochs": 10,
    "training.warmup_epochs": 0.2,
    "data.subset": 160,
    "loss.variance_loss_weight": 0.15,
    "loss.covariance_loss_weight": 0.15,
    "evaluation.eval_frequency": 2,
    "checkpoint.save_frequency": 10,
    "training.lr": 2e-3,
}
COLLAPSED = {
    "model.ema.momentum": 0,
    "model.ema.momentum_end": 0,
    "loss.variance_loss_weight": 0,
    "loss.covariance_loss_weight": 0,
    "training.lr": 5e-3,
}
STUCK = {"training.lr": 1e-7, "training.min_lr": 0}
DIVERGING = {"training.lr": 3.0}


@pytest.fixture(scope="session")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three short runs that go wrong, by what is wrong with them."""
    root = tmp_path_factory.mktemp("runs")
    for name, changes in {"collapsed": COLLAPSED, "stuck": STUCK, "diverging": DIVERGING}.items():
        run_training(load_config(TINY, BASE | changes), output_dir=root / name, console=False)
    return {name: root / name for name in ("collapsed", "stuck", "diverging")}


UNTRAINED = {"std": 0.6, "rank": 8.0, "lidar": 6.0, "cosine": 0.5, "position": 0.2}


def evaluation(step: int, **changes: Any) -> dict[str, Any]:
    """An online evaluation of a healthy run: ranks four times those of the untrained encoder; the same at both levels."""
    values = {"std": 0.6, "rank": 32.0, "lidar": 24.0, "cosine": 0.5, "position": 0.2}
    values |= {key: value for key, value in changes.items() if key in values}
    rest = {key: value for key, value in changes.items() if key not in values}
    measures = {f"{name}/level_{level}": value for name, value in values.items() for level in (0, 1)}
    record = {"kind": "eval", "step": step, "epoch": step / 200, "time": step * 0.1, **measures, "rank": 40.0}
    knn = 0.2 + 0.3 * min(1.0, step / 20_000)
    return record | {"knn": knn, "knn_queries": 1000, "signs": [], "seconds": 2.0} | rest


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a run folder of synthetic records, 200 steps to the epoch; by default a healthy, finished run."""
    count = 0

    def make(
        train: list[dict[str, Any]] | None = None,
        evaluations: list[dict[str, Any]] | None = None,
        *,
        untrained: bool = True,
        log: str | None = "2026-01-01 00:00:00,000 INFO steps 0 to 20000\n",
        changes: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> Path:
        nonlocal count
        count += 1
        root = tmp_path / (name or f"run{count}")
        root.mkdir()
        config = load_config(TINY, {"training.epochs": 100, "model.embed_dim": 64, **(changes or {})})
        (root / "config.yaml").write_text(dump_config(config))
        train = [train_record(s) for s in range(500, 20_001, 500)] if train is None else train
        evaluations = [evaluation(s) for s in range(2000, 20_001, 2000)] if evaluations is None else evaluations
        first = {f"{name}/level_{level}": value for name, value in UNTRAINED.items() for level in (0, 1)}
        start = [{"kind": "untrained", "step": 0, "epoch": 0.0, "time": 0.0, **first}] if untrained else []
        lines = sorted([*start, *train, *evaluations], key=lambda record: int(record["step"]))
        if lines:
            (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if log is not None:
            (root / "training.log").write_text(log)
        return root

    return make
