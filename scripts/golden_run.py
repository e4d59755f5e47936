"""Record the reference losses of `tests/training/test_golden_run.py`: 50 steps of a small model on the CPU.

Run it only if a change is meant to alter the losses, and say so in the commit message:

    python scripts/golden_run.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from hjepa.config import load_config
from hjepa.runtime.files import write_atomically
from hjepa.training import run_training

FILE = Path(__file__).parents[1] / "tests" / "training" / "files" / "golden_run.json"
STEPS = 50
KEYS: dict[str, Any] = {
    "model.encoder_type": "vit_tiny_patch4_16",
    "model.embed_dim": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.predictor.depth": 1,
    "model.predictor.embed_dim": 16,
    "model.predictor.num_heads": 1,
    "data.dataset": "shapes",
    "data.image_size": 16,
    "data.subset": 256,
    "data.batch_size": 16,
    "data.augmentation.color_jitter": 0.2,
    "training.accumulation_steps": 2,
    "training.epochs": 7,
    "training.warmup_epochs": 1,
    "training.lr": 1e-3,
    "training.clip_grad": 1.0,
    "training.max_steps": STEPS,
    "training.num_threads": 1,
    "loss.variance_loss_weight": 0.1,
    "loss.covariance_loss_weight": 0.1,
    "logging.log_frequency": 1,
    "logging.tensorboard.enabled": False,
    "evaluation.eval_frequency": 100,
    "evaluation.online_images": 48,
    "evaluation.final": False,
    "device": "cpu",
    "seed": 7,
}
NAMES = ("loss", "loss/level_0", "loss/level_1", "variance", "covariance", "grad_norm")


def losses() -> dict[str, list[float]]:
    """Every metric in `NAMES`, step by step."""
    with tempfile.TemporaryDirectory() as folder:
        run_training(load_config({}, KEYS), output_dir=folder, console=False)
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    return {name: [record[name] for record in records] for name in NAMES}


if __name__ == "__main__":
    told = {"torch": torch.__version__.split("+")[0], "steps": STEPS, "losses": losses()}
    write_atomically(FILE, json.dumps(told, indent=1) + "\n")
    print(FILE)
