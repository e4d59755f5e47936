"""``checkpoint``, ``logging``, ``evaluation`` and ``distributed``: outputs of a run, evaluation, processes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from hjepa.config.base import Section
from hjepa.config.protocols import (
    DetectionConfig,
    FineTuneConfig,
    RobustnessConfig,
    SegmentationConfig,
    SupervisedConfig,
)


class CheckpointConfig(Section):
    """Checkpoints: always `last.pth`, others by these keys."""

    save_frequency: int = Field(default=5, ge=1)
    """Epochs between `checkpoint_epoch_<n>.pth` files."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps between `checkpoint_step_<n>.pth` files, in addition."""
    keep_best_n: int = Field(default=3, ge=1)
    """Number of periodic checkpoints to keep, best first; `best_model.pth` is a copy of the best."""
    best_metric: Literal["auto", "knn", "rank", "loss"] = "auto"
    """How checkpoints are ranked: by online k-NN accuracy, effective rank, or the loss (which collapse also lowers).
    `auto` is `knn` with labels and `rank` without."""
    background: bool = True
    """Write checkpoints in a thread while training continues, from a copy of the state at the time of saving."""
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
    """Name of the run; the run folder is `runs/<experiment_name>` unless `log_dir` or `--output-dir` is given."""
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
    """Epochs between online evaluations: health of the features and k-NN, on `health.images` validation images."""
    online_images: int = Field(default=2000, ge=20)
    """Images for the online k-NN beside those of `health.images`, where each is classified by all others; fewer if they would
    take more than 3 % of the time."""
    final: bool = True
    """Evaluate and write the report at the end of training."""
    train_images: int | None = Field(default=20000, ge=10)
    """Maximum number of training images for the final probe and k-NN, not counting validation images; null for all."""
    test_images: int | None = Field(default=None, ge=1)
    """Maximum number of test images, and of validation images, to evaluate on and to show in figures; all when not
    given."""
    fine_tune: FineTuneConfig = Field(default_factory=FineTuneConfig)
    """Fine-tuning with labels."""
    supervised: SupervisedConfig = Field(default_factory=SupervisedConfig)
    """The supervised control."""
    robustness: RobustnessConfig = Field(default_factory=RobustnessConfig)
    """Accuracy on corrupted images."""
    segmentation: SegmentationConfig = Field(default_factory=SegmentationConfig)
    """A class per pixel."""
    detection: DetectionConfig = Field(default_factory=DetectionConfig)
    """Boxes of objects."""


class DistributedConfig(Section):
    """Several processes, started with `torchrun`."""

    enabled: bool = False
    """Require several processes: without `torchrun` the run stops and shows the command to use."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Communication backend; `auto` is `nccl` on CUDA and `gloo` elsewhere."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """`ddp`: every process holds the whole model. `fsdp`: weights, gradients and optimiser state are sharded over the
    processes (FSDP2), and checkpoints are written in shards. `auto`: `ddp`, unless its state would take over 60 % of a
    device's memory."""
    timeout: float = Field(default=600.0, ge=1)
    """Seconds that a process waits for the others before it gives up; must exceed the longest step, evaluation or save."""
