"""Load a trained model from a checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hjepa.config import Config, load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.methods import HJepa, Method, build_method
from hjepa.runs.folder import RunFolder
from hjepa.runs.locate import find_checkpoint, is_named, newest_usable, read_whole
from hjepa.runtime.device import resolve_device
from hjepa.runtime.dtensor import spread_like

if TYPE_CHECKING:
    from hjepa.data.image_sample import ImageSample
    from hjepa.models import HJEPA, Encoder

log = logging.getLogger("hjepa")


@dataclass
class TrainedRun:
    """A trained model loaded from a checkpoint, for evaluation.

    Attributes:
        method: in evaluation mode.
        config: configuration of the run.
        channels: input channels.
        mean, std: normalisation per channel.
        step, epoch: optimiser steps and epochs trained.
        checkpoint: the file.
        run_dir: the run folder, if one can be found.
        seconds: time trained, including online evaluations and checkpoints; None if not recorded.
        sample: hashes that identify the training images; None for named data sets and runs of earlier versions.
    """

    method: Method
    config: Config
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    step: int
    epoch: int
    checkpoint: Path
    run_dir: Path | None
    seconds: float | None = None
    sample: ImageSample | None = None

    @property
    def encoder(self) -> Encoder:
        """What is evaluated, packed and exported."""
        return self.method.encoder

    @property
    def model(self) -> HJEPA:
        """Encoders and predictor of a joint-embedding predictive method.

        Raises:
            UserError: the method has none.
        """
        if not isinstance(self.method, HJepa):
            raise UserError(f"{self.checkpoint}: method {self.config.method} has no predictor over masks")
        return self.method.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.method.parameters()).device


def load_run(checkpoint: str | Path, *, device: str = "auto") -> TrainedRun:
    """Load a checkpoint file, or the newest one of a run folder.

    Args:
        checkpoint: a ``.pth`` file or a run folder.
        device: where to put the model.

    Raises:
        CheckpointError: there is no checkpoint, the named file is damaged, or all checkpoints of the folder are.
    """
    path, state = _newest(checkpoint)
    config = load_config(state["config"])
    data = state["data"]
    method = build_method(config, data["channels"])
    load_weights(method.weights, state["model_state_dict"], path)
    return TrainedRun(
        method=method.to(resolve_device(device)).eval(),
        config=config,
        channels=data["channels"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        step=state["step"],
        epoch=state["epoch"],
        checkpoint=path,
        run_dir=_run_dir(Path(checkpoint), state),
        seconds=state["seconds"],
        sample=data.get("sample"),
    )


def _newest(checkpoint: str | Path) -> tuple[Path, dict[str, Any]]:
    """Path and contents of the named checkpoint, or of the newest intact one of a folder."""
    path, given = find_checkpoint(checkpoint), Path(checkpoint)
    try:
        return path, read_whole(path)
    except CheckpointError:
        if is_named(given):
            raise
    # The folder may hold checkpoints of other runs, copied there by hand.
    home = given.parent if given.name == "checkpoints" else given
    found = newest_usable(path.parent, RunFolder(home, path.parent).run)
    assert found is not None  # the folder holds at least the damaged one, for which `newest_usable` raises
    for note in found.notes:
        log.warning("%s", note)
    return found.checkpoint, read_whole(found.checkpoint) if "shards" in found.state else found.state


def untrained_encoder(run: TrainedRun) -> Encoder:
    """The same encoder with its initial weights, which are a function of the configuration's seed."""
    return build_method(run.config, run.channels).to(run.device).eval().encoder


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load all weights into a model.

    Raises:
        CheckpointError: names or shapes differ; the message names the first.
    """
    own = model.state_dict()
    for name, value in own.items():
        if name not in weights:
            raise CheckpointError(f"{path}: weight {name} is missing; the configuration describes another model")
        if weights[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: weight {name} has shape {tuple(weights[name].shape)}, but the configuration expects "
                f"{tuple(value.shape)}"
            )
    extra = next((name for name in weights if name not in own), None)
    if extra is not None:
        raise CheckpointError(f"{path}: unexpected weight {extra}; the configuration describes another model")
    model.load_state_dict({name: spread_like(weights[name], value) for name, value in own.items()})


def _run_dir(given: Path, state: dict[str, Any]) -> Path | None:
    if given.is_dir() and not is_named(given):
        return given.parent if given.name == "checkpoints" else given
    if (given.parent.parent / "config.yaml").is_file():
        return given.parent.parent
    recorded = state.get("run_dir")
    return Path(recorded) if recorded and (Path(recorded) / "config.yaml").is_file() else None
