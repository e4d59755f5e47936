"""Checkpoints: atomic, loadable without running code, and enough to go on bit by bit."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hjepa.config import Config, load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.models import HJEPA, build_model
from hjepa.training.device import resolve_device
from hjepa.training.optimizer import OptimizerPair

FORMAT_VERSION = 1
_REQUIRED = ("format_version", "epoch", "step", "loss", "model_state_dict", "optimizer_state_dict", "config", "data")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in one step: to a temporary file, through to the disk, then renamed.

    Args:
        path: destination.
        state: tensors and plain Python values only, so that ``torch.load(weights_only=True)`` reads it.

    Raises:
        UserError: the disk is full or not writable; an older file at ``path`` is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: the checkpoint cannot be written ({error}); free some space or choose another folder"
        ) from None


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint. Nothing in the file is executed.

    Raises:
        CheckpointError: no file, a damaged one, or a file of another program.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give a .pth file or a run folder")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged, or not a checkpoint ({reason}); use {_other(path)}") from None
    missing = [key for key in _REQUIRED if not isinstance(state, dict) or key not in state]
    if missing:
        raise CheckpointError(f"{path}: not a checkpoint of this program (no {', '.join(missing)}); use {_other(path)}")
    if state["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer version of hjepa (format {state['format_version']}, this one reads up to "
            f"{FORMAT_VERSION}); update hjepa"
        )
    return state


def _other(path: Path) -> str:
    others = sorted(
        (p for p in path.parent.glob("*.pth") if p != path and not p.name.startswith(".")),
        key=lambda p: p.stat().st_mtime,
        reverse=True,
    )
    return f"another one, for example {others[0]}" if others else "another one"


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path means: itself, or the newest one of a run folder.

    Raises:
        CheckpointError: nothing there.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder; give a checkpoint (.pth) or a run folder")
    candidates = [path / "last.pth", path / "checkpoints" / "last.pth"]
    settings = path / "config.yaml"
    if settings.is_file():
        elsewhere = load_config(settings).checkpoint.checkpoint_dir
        if elsewhere is not None:
            candidates.append(elsewhere / "last.pth")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise CheckpointError(f"{path}: holds no checkpoints/last.pth; is it a run folder?")


@dataclass
class TrainedRun:
    """A checkpoint brought back to life, for reading.

    Attributes:
        model: in evaluation mode.
        config: configuration of the run.
        channels: input channels.
        mean, std: normalisation per channel.
        step, epoch: how far it was trained.
        checkpoint: the file.
        run_dir: the run folder, where one can be found.
    """

    model: HJEPA
    config: Config
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    step: int
    epoch: int
    checkpoint: Path
    run_dir: Path | None


def load_run(checkpoint: str | Path, *, device: str = "auto") -> TrainedRun:
    """Load a checkpoint file, or the newest one of a run folder.

    Args:
        checkpoint: a ``.pth`` file or a run folder.
        device: where to put the model.

    Raises:
        CheckpointError: nothing there, or damaged.
    """
    path = find_checkpoint(checkpoint)
    state = read_checkpoint(path)
    config = load_config(state["config"])
    data = state["data"]
    model = build_model(config, data["channels"])
    load_weights(model, state["model_state_dict"], path)
    return TrainedRun(
        model=model.to(resolve_device(device)).eval(),
        config=config,
        channels=data["channels"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        step=state["step"],
        epoch=state["epoch"],
        checkpoint=path,
        run_dir=_run_dir(Path(checkpoint), state),
    )


def untrained_model(run: TrainedRun) -> HJEPA:
    """The same model with its step-0 weights, which are a function of the configuration's seed."""
    device = next(run.model.parameters()).device
    return build_model(run.config, run.channels).to(device).eval()


def load_weights(model: HJEPA, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put weights into a model, all of them.

    Raises:
        CheckpointError: names or shapes differ; the line names the first.
    """
    own = model.state_dict()
    for name, value in own.items():
        if name not in weights:
            raise CheckpointError(f"{path}: has no weight {name}; the configuration describes another model")
        if weights[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: weight {name} has shape {tuple(weights[name].shape)}, the configuration asks for "
                f"{tuple(value.shape)}"
            )
    extra = next((name for name in weights if name not in own), None)
    if extra is not None:
        raise CheckpointError(f"{path}: has a weight {extra} that the configured model lacks")
    model.load_state_dict(weights)


def load_optimizer(optimizer: torch.optim.Optimizer | OptimizerPair, state: dict[str, Any], path: Path) -> None:
    """Put an optimiser's state back.

    Raises:
        CheckpointError: it belongs to another optimiser.
    """
    try:
        optimizer.load_state_dict(state)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its optimiser state does not fit training.optimizer ({error}); resume with the run's own "
            "training.optimizer"
        ) from None


def _run_dir(given: Path, state: dict[str, Any]) -> Path | None:
    if given.is_dir():
        return given.parent if given.name == "checkpoints" else given
    if (given.parent.parent / "config.yaml").is_file():
        return given.parent.parent
    recorded = state.get("run_dir")
    return Path(recorded) if recorded and (Path(recorded) / "config.yaml").is_file() else None
