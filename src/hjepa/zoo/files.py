"""Files of a packed encoder, and reading them."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from hjepa.config import load_config
from hjepa.data.images.preprocess import Preprocess
from hjepa.errors import CheckpointError
from hjepa.methods import Method, build_method
from hjepa.runs.load import TrainedRun
from hjepa.runtime.device import resolve_device

WEIGHTS, ABOUT, CONFIG, CARD, RESULTS = "model.safetensors", "model.json", "config.yaml", "README.md", "results.json"
FORMAT_VERSION = 1


def shipped_models() -> list[str]:
    """Names of the trained encoders that come with the package."""
    return sorted(entry.name for entry in shipped_folder().iterdir() if (entry / WEIGHTS).is_file())


def shipped_folder() -> Path:
    """Folder of the trained encoders that come with the package."""
    return Path(str(resources.files("hjepa.zoo"))) / "models"


def is_packed(folder: Path) -> bool:
    """Whether a folder holds a packed encoder."""
    return (folder / WEIGHTS).is_file() and (folder / ABOUT).is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """Read ``model.json``.

    Raises:
        CheckpointError: damaged, or written by a newer version.
    """
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        version = int(about["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / ABOUT}: cannot be read ({error}); pack the run again") from None
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{folder}: packed by a newer hjepa (format {version}); update hjepa")
    return about


def read_packed(folder: Path, device: str) -> TrainedRun:
    """Load a packed encoder for inference; its predictor is untrained.

    Raises:
        CheckpointError: a file is missing, damaged or does not match the configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    about = read_about(folder)
    _check_preprocess(about, folder)
    config = load_config(folder / CONFIG)
    method = build_method(config, about["channels"])
    try:
        weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged ({error}); pack the run again") from None
    _put(method, weights, folder)
    return TrainedRun(
        method=method.to(resolve_device(device)).eval(),
        config=config,
        channels=about["channels"],
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        step=about["step"],
        epoch=about["epoch"],
        checkpoint=folder,
        # Results of a new evaluation go to the current folder, never into the package.
        run_dir=Path(),
        seconds=about.get("seconds"),
        sample=about.get("image_sample"),
    )


def _check_preprocess(about: dict[str, Any], folder: Path) -> None:
    """Reject an encoder that needs a preprocessing this version does not have."""
    if "preprocess" not in about:  # packed by a version without the key
        return
    try:
        Preprocess.from_dict(about["preprocess"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / ABOUT}: {error}; update hjepa, or pack the run again") from None


def _put(method: Method, weights: dict[str, torch.Tensor], folder: Path) -> None:
    own = method.encoder.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or sorted(n for n in own if own[n].shape != weights[n].shape)
    if wrong:
        raise CheckpointError(f"{folder}: weight {wrong[0]} does not match {CONFIG}; pack the run again")
    for network in method.networks():
        # Only one encoder is packed; it is both the context and the target encoder.
        if isinstance(network, type(method.encoder)):
            network.load_state_dict(weights)
