"""H-JEPA: hierarchical joint-embedding predictive self-supervised learning for images.

The names below are the public interface. They are imported when first used, so that ``import hjepa`` costs next to
nothing and the command line answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hjepa.version import __version__

_HOMES = {
    "ablate": "hjepa.api",
    "train": "hjepa.api",
    "dry_run": "hjepa.api",
    "evaluate": "hjepa.api",
    "visualize": "hjepa.api",
    "embed": "hjepa.api",
    "similar": "hjepa.api",
    "duplicates": "hjepa.api",
    "analyze": "hjepa.api",
    "compare": "hjepa.api",
    "watch": "hjepa.api",
    "RunResult": "hjepa.api",
    "load_config": "hjepa.config",
    "Config": "hjepa.config",
    "ModelConfig": "hjepa.config",
    "DataConfig": "hjepa.config",
    "MaskingConfig": "hjepa.config",
    "TrainingConfig": "hjepa.config",
    "LossConfig": "hjepa.config",
    "create_hjepa": "hjepa.models",
    "build_model": "hjepa.models",
    "HJEPA": "hjepa.models",
    "MaskSampler": "hjepa.masking",
    "Masks": "hjepa.masking",
    "build_dataset": "hjepa.data",
    "build_splits": "hjepa.data",
    "Splits": "hjepa.data",
    "build_dataloader": "hjepa.data",
    "load_pretrained": "hjepa.api",
    "load_run": "hjepa.training",
    "PretrainedEncoder": "hjepa.zoo",
    "UserError": "hjepa.errors",
}

__all__ = [
    "HJEPA",
    "Config",
    "DataConfig",
    "LossConfig",
    "MaskSampler",
    "MaskingConfig",
    "Masks",
    "ModelConfig",
    "PretrainedEncoder",
    "RunResult",
    "Splits",
    "TrainingConfig",
    "UserError",
    "__version__",
    "ablate",
    "analyze",
    "build_dataloader",
    "build_dataset",
    "build_model",
    "build_splits",
    "compare",
    "create_hjepa",
    "dry_run",
    "duplicates",
    "embed",
    "evaluate",
    "load_config",
    "load_pretrained",
    "load_run",
    "similar",
    "train",
    "visualize",
    "watch",
]

if TYPE_CHECKING:
    from hjepa.api import (
        RunResult,
        ablate,
        analyze,
        compare,
        dry_run,
        duplicates,
        embed,
        evaluate,
        load_pretrained,
        similar,
        train,
        visualize,
        watch,
    )
    from hjepa.config import Config, DataConfig, LossConfig, MaskingConfig, ModelConfig, TrainingConfig, load_config
    from hjepa.data import Splits, build_dataloader, build_dataset, build_splits
    from hjepa.errors import UserError
    from hjepa.masking import Masks, MaskSampler
    from hjepa.models import HJEPA, build_model, create_hjepa
    from hjepa.training import load_run
    from hjepa.zoo import PretrainedEncoder


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hjepa' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
