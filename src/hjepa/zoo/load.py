"""Load encoders by name, or from a packed folder, a run folder or a checkpoint."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from hjepa.errors import CheckpointError
from hjepa.runs.load import TrainedRun, load_run
from hjepa.zoo.files import RESULTS, is_packed, read_about, read_packed, shipped_folder, shipped_models
from hjepa.zoo.pretrained import PretrainedEncoder


def load_encoder(source: str | Path, *, device: str = "auto") -> TrainedRun:
    """Load a trained model for inference.

    Args:
        source: name of a shipped model, packed folder, run folder or checkpoint (.pth).
        device: device to load it to.

    Raises:
        CheckpointError: not found, or damaged; the message suggests similar names.
    """
    folder = _packed_folder(source)
    if folder is not None:
        return read_packed(folder, device)
    if not Path(source).exists() and "/" not in str(source) and not str(source).endswith(".pth"):
        known = shipped_models()
        close = difflib.get_close_matches(str(source), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"shipped models: {', '.join(known) or 'none'}"
        raise CheckpointError(f"{source}: no such checkpoint, run folder or shipped model; {hint}")
    return load_run(source, device=device)


def load_pretrained(source: str | Path, *, device: str = "cpu") -> PretrainedEncoder:
    """Load a trained encoder in evaluation mode; nothing is downloaded.

    Args:
        source: name of a model that comes with the package (`hjepa.zoo.shipped_models()`), folder written by
            ``hjepa pack``, run folder or checkpoint.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.

    Raises:
        CheckpointError: not found, or damaged.
    """
    folder = _packed_folder(source)
    run = load_encoder(source, device=device)
    card: dict[str, Any] = {"name": str(source), "step": run.step}
    if folder is not None:
        card |= read_about(folder)
    results = (folder or run.run_dir or run.checkpoint.parent) / RESULTS
    if results.is_file():
        card["results"] = json.loads(results.read_text(encoding="utf-8"))
    encoder = PretrainedEncoder(run.encoder, run.mean, run.std, card)
    return encoder.to(run.device).eval()


def _packed_folder(source: str | Path) -> Path | None:
    path = Path(source)
    # An existing file or folder takes precedence over a shipped model of the same name.
    if not path.exists() and str(source) in shipped_models():
        return shipped_folder() / str(source)
    return path if path.is_dir() and is_packed(path) else None
