"""The whole configuration and the checks that span sections."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hjepa.config.base import Section
from hjepa.config.data import DataConfig
from hjepa.config.geometry import Geometry, resolve
from hjepa.config.health import HealthConfig
from hjepa.config.loss import LossConfig
from hjepa.config.masking import MaskingConfig
from hjepa.config.model import ModelConfig
from hjepa.config.run import (
    CheckpointConfig,
    DistributedConfig,
    EvaluationConfig,
    LoggingConfig,
)
from hjepa.config.training import TrainingConfig
from hjepa.errors import UserError


class Config(Section):
    """The complete configuration of a run."""

    method: str = Field(default="hjepa", min_length=1)
    """`hjepa` (several levels), `ijepa` (one level), `package.module:Class`, or a name registered with
    `hjepa.methods.register`. The module is looked for on `PYTHONPATH` and in the current directory. A registered name is
    known only once the module that registers it has been imported, which the command line does not do."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """Encoder, levels, predictor, target encoder."""
    data: DataConfig = Field(default_factory=DataConfig)
    """Images."""
    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    """Masks."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """Optimisation."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """Objective."""
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    """Checkpoints."""
    logging: LoggingConfig = Field(default_factory=LoggingConfig)
    """Logs."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """Evaluation."""
    health: HealthConfig = Field(default_factory=HealthConfig)
    """What counts as trouble, and what to do about it."""
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)
    """Several processes."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of weights, data order, crops and masks."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """`auto`, `cpu`, `cuda`, `cuda:<n>` or `mps`."""

    @model_validator(mode="after")
    def _one_level_for_ijepa(self) -> Self:
        """`ijepa` has one level unless the number of levels is set."""
        model = self.model
        if self.method == "ijepa" and model.levels is None and "num_hierarchies" not in model.model_fields_set:
            object.__setattr__(self, "model", model.model_copy(update={"num_hierarchies": 1}))
        return self

    def geometry(self) -> Geometry:
        """Sizes of the model. Raises `UserError` when they do not fit together."""
        return resolve(self.model, self.data.image_size)

    def check(self) -> Config:
        """Check combinations across sections and return self. Raises `UserError` with the key and what is allowed."""
        levels = len(self.geometry().levels)
        weights = self.loss.hierarchy_weights
        if weights is not None and len(weights) != levels:
            raise UserError(
                f"loss.hierarchy_weights: {len(weights)} weights for {levels} level(s); give {levels}, finest first"
            )
        if weights is not None and not any(weights):
            raise UserError("loss.hierarchy_weights: all are 0, so nothing would be learned; raise at least one")
        training = self.training
        if training.lr_schedule == "constant" and training.warmup_epochs + training.cooldown_epochs > training.epochs:
            raise UserError(
                f"training.cooldown_epochs: {training.cooldown_epochs:g} plus {training.warmup_epochs:g} of warm-up exceeds "
                f"training.epochs={training.epochs:g}"
            )
        if self.model.center_targets and self.data.batch_size < 2:
            raise UserError("model.center_targets: needs at least two images per batch; raise data.batch_size")
        graphs = training.compile_mode in ("reduce-overhead", "max-autotune")
        if training.compile and graphs and training.accumulation_steps > 1:
            raise UserError(
                f"training.compile_mode: {training.compile_mode} replays CUDA graphs, which overwrite the gradients of the "
                "previous micro-batch; use training.accumulation_steps=1, or default or max-autotune-no-cudagraphs"
            )
        if training.min_lr > training.lr:
            raise UserError(f"training.min_lr: {training.min_lr:g} is above training.lr={training.lr:g}")
        if (self.data.mean is None) != (self.data.std is None):
            raise UserError("data.mean: give both data.mean and data.std, or neither")
        if self.data.std is not None and min(self.data.std, default=0) <= 0:
            raise UserError("data.std: every value must be above 0")
        for key in ("mean", "std"):
            values = getattr(self.data, key)
            if values is not None and self.data.channels is not None and len(values) != self.data.channels:
                raise UserError(f"data.{key}: {len(values)} values for data.channels={self.data.channels}")
        return self
