"""The results file of an evaluation: its path, its provenance, and writing it atomically."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.config import dump_config
from hjepa.errors import UserError
from hjepa.runtime.environment import git_commit
from hjepa.runtime.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa.config import Config
    from hjepa.data import Split
    from hjepa.runs.load import TrainedRun


def results_path(
    run: TrainedRun,
    config: Config,
    output: str | Path | None,
    *,
    other_data: bool,
    split: Split = "test",
    label: str | None = None,
) -> Path:
    """Path of the results: ``output``, or a file in the run folder (next to the checkpoint if there is none).

    ``label`` takes the place of the data set's name. Validation has a file of its own, so that neither split overwrites the other's results.

    Raises:
        UserError: ``output`` is a folder.
    """
    if output is None:
        return (run.run_dir or run.checkpoint.parent) / results_name(
            split, label or (config.data.dataset if other_data else None)
        )
    path = Path(output)
    if path.is_dir():
        raise UserError(f"output: {path} is a folder; give a file, for example {path / 'results.json'}")
    return path


def results_name(split: Split, dataset: str | None = None) -> str:
    """``results.json``, ``results_validation.json``, ``results_<dataset>.json`` or ``results_<dataset>_validation.json``."""
    parts = ["results", *([dataset] if dataset else []), *(["validation"] if split == "validation" else [])]
    return "_".join(parts) + ".json"


def without_nan(values: Tensor) -> list[Any]:
    """Nested lists of numbers; NaN, such as the CKA of constant features, becomes None, as JSON has none."""

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, list) else value if math.isfinite(value) else None

    found: list[Any] = plain(values.tolist())
    return found


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write JSON atomically; folders are created as needed.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(results, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"output: {path} cannot be written ({error.strerror}); choose another --output") from None


def origin(run: TrainedRun) -> dict[str, Any]:
    """Provenance of the results: checkpoint, configuration, code and versions."""
    import numpy
    import torch
    import torchvision

    from hjepa.version import __version__

    return {
        "checkpoint": str(run.checkpoint),
        "step": run.step,
        "epoch": run.epoch,
        "training_seconds": run.seconds,
        "seed": run.config.seed,
        "config_digest": hashlib.sha256(dump_config(run.config).encode()).hexdigest()[:16],
        "commit": git_commit(),
        "versions": {
            "hjepa": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
        },
    }
