"""Pack a run: half-precision weights of the encoder, its configuration, its results and a model card."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from hjepa.config import dump_config, load_config
from hjepa.data.images.preprocess import Preprocess
from hjepa.errors import UserError
from hjepa.runs.load import TrainedRun, load_run
from hjepa.runtime.files import write_atomically
from hjepa.zoo.card import model_card
from hjepa.zoo.files import ABOUT, CARD, CONFIG, FORMAT_VERSION, RESULTS, WEIGHTS, is_packed, read_packed

# Largest mean relative change of the features by half precision.
_TOLERANCE = 0.01


def pack_run(
    source: str | Path, output: str | Path, *, name: str, command: str | None = None, data: str | None = None
) -> Path:
    """Pack the target encoder of a run into a folder that ``load_pretrained`` reads.

    Args:
        source: run folder or checkpoint.
        output: folder to write: new, empty, or with an older package, which is replaced.
        name: name of the model, lower case with dashes.
        command: command that reproduces the run; the run's own when not given.
        data: description of the images in the card; the data set's own when not given.

    Returns:
        the folder.

    Raises:
        UserError: an invalid name, a folder with other files, or features that half precision changes too much.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise UserError(f"--name: invalid name {name!r}; use lower case letters, digits, dots and dashes")
    folder = Path(output)
    if folder.exists() and not (folder.is_dir() and (is_packed(folder) or not any(folder.iterdir()))):
        raise UserError(f"--output: {folder} exists and is not a packed model; choose an empty or new folder")
    run = load_run(source, device="cpu")
    results = _results(run)
    if results is not None and data is not None:
        results["description"] = data
    about = _about(run, name, command)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(run, folder / WEIGHTS)
        # Local paths mean nothing on other machines.
        private = {
            "data.data_path": None,
            "logging.log_dir": None,
            "checkpoint.checkpoint_dir": None,
            "data.classes_file": None,
            "data.labels_file": None,
        }
        write_atomically(folder / CONFIG, dump_config(load_config(run.config.model_dump(mode="json"), private)))
        write_atomically(folder / ABOUT, json.dumps(about, indent=2) + "\n")
        if results is not None:
            write_atomically(folder / RESULTS, json.dumps({**results, "checkpoint": name}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be written ({error.strerror}); choose another folder") from None
    about["half_precision_error"] = _check_half(run, folder)
    write_atomically(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    write_atomically(folder / CARD, model_card(about, run.config, results, (folder / WEIGHTS).stat().st_size))
    return folder


def _results(run: TrainedRun) -> dict[str, Any] | None:
    file = (run.run_dir or run.checkpoint.parent) / RESULTS
    if not file.is_file():
        return None
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if results["step"] != run.step:
        raise UserError(
            f"{file}: measured at step {results['step']}, the checkpoint is at step {run.step}; run hjepa evaluate "
            f"--checkpoint {run.checkpoint} first"
        )
    return results


def _about(run: TrainedRun, name: str, command: str | None) -> dict[str, Any]:
    written = (run.run_dir or run.checkpoint.parent) / "environment.json"
    environment: dict[str, Any] = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    geometry = run.encoder.geometry
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "parameters": sum(p.numel() for p in run.encoder.parameters()),
        "image_size": list(geometry.image_size),
        "patch_size": geometry.patch_size,
        "embed_dim": geometry.embed_dim,
        "depth": geometry.depth,
        "levels": [{"depth": level.depth, "stride": level.stride} for level in geometry.levels],
        "channels": run.channels,
        "mean": list(run.mean),
        "std": list(run.std),
        "preprocess": Preprocess(geometry.height_width, tuple(run.mean), tuple(run.std)).as_dict(),
        "step": run.step,
        "epoch": run.epoch,
        "seconds": run.seconds,
        "seed": run.config.seed,
        **({} if run.sample is None else {"image_sample": run.sample}),
        "command": command or environment.get("command"),
        **{key: environment.get(key) for key in ("commit", "hjepa", "torch", "device", "processes", "threads")},
    }


def _write_weights(run: TrainedRun, path: Path) -> None:
    from safetensors.torch import save

    state = {name: value.half().contiguous() for name, value in run.encoder.state_dict().items()}
    temporary = path.with_name(f".{path.name}")
    # `save_file` creates a file that only its owner may read.
    temporary.write_bytes(save(state))
    temporary.replace(path)


@torch.no_grad()
def _check_half(run: TrainedRun, folder: Path) -> float:
    """Mean relative error of the packed encoder's features on random images."""
    packed = read_packed(folder, "cpu").encoder
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, run.channels, *run.encoder.geometry.image_size, generator=generator)
    before, after = (encoder.extract_features(images) for encoder in (run.encoder, packed))
    error = float((after - before).norm(dim=1).div(before.norm(dim=1)).mean())
    if not error <= _TOLERANCE:
        raise UserError(f"{folder}: half precision changes the features by {error:.1%}, more than {_TOLERANCE:.0%}")
    return error
