"""Synthetic records and results of a healthy run."""

from __future__ import annotations

from typing import Any


def train_record(step: int, **changes: Any) -> dict[str, Any]:
    """A record of a healthy interval, 200 steps to the epoch."""
    record = {
        "kind": "train",
        "step": step,
        "epoch": step / 200,
        "time": step * 0.1,
        "loss": 0.2,
        "loss/level_0": 0.10,
        "loss/level_1": 0.05,
        "chance/level_0": 0.30,
        "chance/level_1": 0.25,
        "lr": 1e-3,
        "momentum": 0.996,
        "grad_norm": 0.5,
        "skipped": 0,
        "images_per_second": 200.0,
        "data_wait": 0.01,
    }
    return record | {name.replace("__", "/"): value for name, value in changes.items()}


def make_scores(trained: float, untrained: float, pixels: float) -> dict[str, Any]:
    """What a results file says of one split."""
    scores = {"trained": trained, "untrained": untrained, "pixels": pixels, "pca": pixels - 0.01}
    levels = [{"level": i, "trained": trained - 0.03, "untrained": untrained - 0.03} for i in range(2)]
    return {"linear_probe": {**scores, "levels": levels}, "knn": {"k": 20, **scores, "levels": levels}}


def make_results(trained: float, untrained: float, pixels: float, *, step: int, images: int = 10_000) -> dict[str, Any]:
    """Contents of results.json; the accuracies are those on validation images."""
    ranks = [{"level": i, "trained": 30.0, "untrained": 8.0} for i in range(2)]
    return {
        **make_scores(0.51, 0.47, 0.49),
        "validation": {**make_scores(trained, untrained, pixels), "images": images},
        "split": "test",
        "rank": {"trained": 40.0, "untrained": 9.0, "levels": ranks, "width": 64},
        "cka": [[1.0, 0.5], [0.5, 1.0]],
        "chance": 0.1,
        "images": 10_000,
        "test_images": 10_000,
        "step": step,
    }
