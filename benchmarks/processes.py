"""Shared by the multi-process measurements: a tiny run, its start with `torchrun`, and the comparison of results."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hjepa.runs.locate import find_checkpoint, read_whole

GLOBAL_BATCH = 64
RUN: dict[str, Any] = {
    "model.encoder_type": "vit_tiny_patch4_32",
    "model.embed_dim": 32,
    "model.depth": 3,
    "model.num_heads": 2,
    "model.num_hierarchies": 3,
    "model.predictor.depth": 1,
    "model.predictor.embed_dim": 32,
    "model.predictor.num_heads": 2,
    "data.dataset": "shapes",
    "data.subset": 512,
    "training.epochs": 2,
    "training.warmup_epochs": 0.5,
    "training.lr": 1.0e-3,
    "training.clip_grad": 1.0,
    "training.num_threads": 1,
    "training.use_amp": False,
    "loss.variance_loss_weight": 0.1,
    "loss.covariance_loss_weight": 0.1,
    "evaluation.final": False,
    "evaluation.online_images": 100,
    "logging.log_frequency": 1,
    "logging.tensorboard.enabled": False,
    "device": "cpu",
}
TARGET = "target_encoder."


def keys(processes: int, strategy: str, **other: Any) -> dict[str, Any]:
    """Configuration keys of the run for a number of processes, with a constant global batch.

    Other keys are given with `__` for the dot.
    """
    added = {key.replace("__", "."): value for key, value in other.items()}
    return RUN | {"data.batch_size": GLOBAL_BATCH // processes, "distributed.strategy": strategy} | added


def train_command(folder: Path, given: dict[str, Any], *options: str) -> list[str]:
    """Arguments of the interpreter that run `hjepa train`."""
    words = [f"{key}={'null' if value is None else str(value).lower()}" for key, value in given.items()]
    return ["-m", "hjepa", "train", "--output-dir", str(folder), *options, *words]


def torchrun(processes: int, *options: str) -> list[str]:
    """The `torchrun` command for a number of processes on this machine, to be followed by the program."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *options]


def surroundings(**added: str) -> dict[str, str]:
    """Environment variables of the processes: one thread each, modules from this source tree."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"} | added


def said(text: str) -> list[str]:
    """The error lines that `hjepa` prints, without duplicates."""
    return list(dict.fromkeys(line for line in text.splitlines() if line.startswith("hjepa: ")))


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def compare(folder: Path, other: Path) -> dict[str, Any]:
    """Largest absolute differences between two finished runs.

    Returns:
        `weights` without the target encoder, `target`, `moments` (both of the optimiser), `losses` over all training
        records, the final `step`, and `bit-equal`, true if all differences are zero.

    Raises:
        ValueError: the runs have different parameter names or steps.
    """
    a, b = (read_whole(find_checkpoint(run)) for run in (folder, other))
    if a["step"] != b["step"]:
        raise ValueError(f"{folder} ends at step {a['step']}, {other} at step {b['step']}")
    weights, target, moments = 0.0, 0.0, 0.0
    for name, value in _pairs(a["model_state_dict"], b["model_state_dict"]):
        if name.startswith(TARGET):
            target = max(target, value)
        else:
            weights = max(weights, value)
    for index, (own, reference) in _both(a["optimizer_state_dict"]["state"], b["optimizer_state_dict"]["state"]):
        tensors = ({f"{index}.{k}": torch.as_tensor(v) for k, v in tree.items()} for tree in (own, reference))
        moments = max([moments, *(value for _, value in _pairs(*tensors))])
    losses = 0.0
    trained = ([r for r in records(run) if r["kind"] == "train"] for run in (folder, other))
    for own, reference in zip(*trained, strict=True):
        if own["step"] != reference["step"]:
            raise ValueError(
                f"{folder} has a record of step {own['step']} where {other} has one of step {reference['step']}"
            )
        losses = max(losses, abs(own["loss"] - reference["loss"]))
    largest = {"weights": weights, "target": target, "moments": moments, "losses": losses}
    return largest | {"step": a["step"], "bit-equal": not any(largest.values())}


def _both(a: dict[Any, Any], b: dict[Any, Any]) -> list[tuple[Any, tuple[Any, Any]]]:
    if a.keys() != b.keys():
        raise ValueError(f"only in one of the two: {sorted(map(str, a.keys() ^ b.keys()))[:5]}")
    return [(name, (a[name], b[name])) for name in a]


def _pairs(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[tuple[str, float]]:
    """Largest difference by name; a NaN counts as infinite."""
    found = []
    for name, (x, y) in _both(a, b):
        distance = (x.double() - y.double()).abs()
        found.append((name, float(distance.nan_to_num(nan=float("inf")).max())))
    return found
