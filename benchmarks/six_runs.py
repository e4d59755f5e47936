"""Train six small runs that go wrong on purpose, each in another way, and show what health says.

    python -m benchmarks.six_runs FOLDER --json docs/results/six_runs.json

Each run takes about a minute on one core and differs from the healthy one by a few keys. The table in docs/health.md is
made from the file by `python -m benchmarks.tables`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hjepa
from benchmarks.report import parser, show, write
from hjepa.errors import UserError

BASE: dict[str, Any] = {
    "model.embed_dim": 64,
    "model.depth": 4,
    "model.num_heads": 2,
    "model.num_hierarchies": 2,
    "model.predictor.depth": 1,
    "model.predictor.embed_dim": 64,
    "model.predictor.num_heads": 2,
    "data.subset": 6000,
    "data.batch_size": 64,
    "training.num_threads": 1,
    "logging.log_frequency": 10,
    "logging.tensorboard.enabled": False,
    "evaluation.final": False,
    "health.patience": 1,
}
UNREGULARISED = {"loss.variance_loss_weight": 0.0, "loss.covariance_loss_weight": 0.0}
RUNS: dict[str, dict[str, Any]] = {
    "healthy": {},
    "collapsed": {**UNREGULARISED, "model.ema.momentum": 0.0, "model.ema.momentum_end": 0.0},
    "diverging": {"training.lr": 2.0, "training.clip_grad": None},
    "stuck": {"training.lr": 2.0e-7, "training.min_lr": 0.0},
    "position": {**UNREGULARISED},
    "dimensions": {**UNREGULARISED},
}
