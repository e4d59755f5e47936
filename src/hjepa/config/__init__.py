"""The typed configuration, the presets, and the token geometry they define. Imports nothing heavier than pydantic."""

from hjepa.config.data import DATASETS, AugmentationConfig, DataConfig
from hjepa.config.geometry import Geometry, Level, resolve
from hjepa.config.grid import Grid, PerAxis
from hjepa.config.health import EmailConfig, HealthAction, HealthConfig
from hjepa.config.load import (
    all_keys,
    batch_advice,
    check_section,
    dump_config,
    flat_values,
    load_config,
    parse_override,
    preset_text,
    presets,
)
from hjepa.config.loss import LossConfig
from hjepa.config.masking import MaskingConfig
from hjepa.config.model import EmaConfig, LevelConfig, ModelConfig, PredictorConfig
from hjepa.config.root import Config
from hjepa.config.run import CheckpointConfig, DistributedConfig, EvaluationConfig, LoggingConfig
from hjepa.config.training import TrainingConfig
from hjepa.config.yaml_text import parse_yaml

__all__ = [
    "DATASETS",
    "AugmentationConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "EmaConfig",
    "EmailConfig",
    "EvaluationConfig",
    "Geometry",
    "Grid",
    "HealthAction",
    "HealthConfig",
    "Level",
    "LevelConfig",
    "LoggingConfig",
    "LossConfig",
    "MaskingConfig",
    "ModelConfig",
    "PerAxis",
    "PredictorConfig",
    "TrainingConfig",
    "all_keys",
    "batch_advice",
    "check_section",
    "dump_config",
    "flat_values",
    "load_config",
    "parse_override",
    "parse_yaml",
    "preset_text",
    "presets",
    "resolve",
]
