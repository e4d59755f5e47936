"""``checkpoint``, ``logging``, ``evaluation`` and ``distributed``: what a run leaves behind and how it is watched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from hjepa.config.base import Section


class CheckpointConfig(Section):
    """Checkpoints: `last.pth` always, others by these rules."""

    save_frequency: int = Field(default=5, ge=1)
    """Epochs between `checkpoint_epoch_<n>.pth` files."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps between `checkpoint_step_<n>.pth` files, in addition."""
    keep_best_n: int = Field(default=3, ge=1)
    """How many of the periodic checkpoints are kept, best first; `best_model.pth` is a copy of the best."""
    best_metric: Literal["auto", "knn", "rank", "loss"] = "auto"
    """What makes a checkpoint best: online k-NN accuracy, effective rank, or the loss (which collapse lowers). `auto`
    is `knn` with labels and `rank` without."""
    background: bool = True
    """Write checkpoints in a thread while training goes on; what is saved is the state at the moment of saving."""
    checkpoint_dir: Path | None = None
    """Folder for checkpoints; `checkpoints` in the run folder when not given."""


class WandbConfig(Section):
    """Weights & Biases (needs the extra `hjepa[wandb]`)."""

    enabled: bool = False
    """Send metrics to Weights & Biases."""
    project: str = "h-jepa"
    """Project name."""
    tags: list[str] = Field(default_factory=list)
    """Tags of the run."""


class TensorboardConfig(Section):
    """TensorBoard."""

    enabled: bool = True
    """Write event files to `tensorboard` in the run folder."""


class LoggingConfig(Section):
    """Logs."""

    experiment_name: str = "hjepa"
    """Name of the run; the run folder is `runs/<experiment_name>` unless `log_dir` or `--output-dir` says otherwise."""
    log_dir: Path | None = None
    """The run folder."""
    log_frequency: int = Field(default=50, ge=1)
    """Optimiser steps between lines of `metrics.jsonl`."""
    wandb: WandbConfig = Field(default_factory=WandbConfig)
    """Weights & Biases."""
    tensorboard: TensorboardConfig = Field(default_factory=TensorboardConfig)
    """TensorBoard."""


class EvaluationConfig(Section):
    """Online evaluation during training and the final table."""

    eval_frequency: int = Field(default=5, ge=1)
    """Epochs between online evaluations: k-NN and effective rank on a fixed part of the training images, which are
    pretrained on as all others are."""
    online_images: int = Field(default=2000, ge=20)
    """Images used by the online evaluation: three quarters as references, a quarter as queries."""
    final: bool = True
    """Evaluate and report at the end of training."""
    train_images: int | None = Field(default=20000, ge=10)
    """Training images whose features the final probe and k-NN use, validation images left out; all of them with
    null."""
    test_images: int | None = Field(default=None, ge=1)
    """Images that are read, of the test and of the validation images each; all of them when not given."""


class DistributedConfig(Section):
    """Several processes, started with `torchrun`."""

    enabled: bool = False
    """Insist on several processes: without `torchrun` the run stops with the command to use."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Communication backend; `auto` is `nccl` on CUDA and `gloo` elsewhere."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """`ddp`: every process holds the whole model. `fsdp`: weights, gradients and optimiser are spread over the processes
    (FSDP2), and checkpoints are written in shards. `auto`: `ddp`, unless what DDP keeps takes over 60 % of a device's
    memory."""
    timeout: float = Field(default=600.0, ge=1)
    """Seconds that a process waits for the others before it gives up; longer than the longest step, evaluation or save."""
