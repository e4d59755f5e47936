"""A checkpoint can only be resumed with the method and the networks that it was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hjepa.config import flat_values, load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.methods import find_method

if TYPE_CHECKING:
    from pathlib import Path

    from hjepa.config import Config

# Keys of the section `model` that decide how weights are trained, not what they are.
_OF_TRAINING = frozenset(
    f"model.{key}" for key in ("drop_path", "gradient_checkpointing", "center_targets", "predictor.predict_visible")
)
# Keys that the geometry is derived from; different values may mean the same networks, as some have defaults by name.
_OF_GEOMETRY = frozenset(
    f"model.{key}"
    for key in (
        "encoder_type",
        "embed_dim",
        "depth",
        "num_heads",
        "num_hierarchies",
        "hierarchy",
        "levels",
        "predictor.embed_dim",
        "predictor.num_heads",
    )
)


def refuse_another_model(config: Config, state: dict[str, Any], checkpoint: Path) -> None:
    """Compare ``method`` and ``model`` with those of a checkpoint.

    Args:
        config: of the resumed run.
        state: of the checkpoint.
        checkpoint: its path, for the message.

    Raises:
        CheckpointError: they differ; the message names the keys with old and new value.
    """
    before = load_config(state["config"])
    old, new = flat_values(before), flat_values(config)
    changed = {key for key in new if key.startswith("model.") and old.get(key) != new[key] and not _is_trained(key)}
    if changed & _OF_GEOMETRY and _same_geometry(before, config):
        changed -= _OF_GEOMETRY
    keys = [key for key in new if key in changed]
    if not _same_method(before.method, config.method):
        keys.insert(0, "method")
    if keys:
        differences = ", ".join(f"{key} {old.get(key)} -> {new[key]}" for key in keys[:4])
        raise CheckpointError(
            f"{checkpoint}: was trained with another {'method' if keys[0] == 'method' else 'model'} ({differences}"
            f"{', ...' if len(keys) > 4 else ''}); resume with the old value, or start a new run in another --output-dir"
        )


def _is_trained(key: str) -> bool:
    return key in _OF_TRAINING or key.startswith("model.ema.")


def _same_geometry(before: Config, now: Config) -> bool:
    # With the same data, so that only the model is compared.
    try:
        return before.model_copy(update={"data": now.data}).geometry() == now.geometry()
    except UserError:
        return False


def _same_method(before: str, now: str) -> bool:
    """Whether two names are of the same class, which may be given by name or by import path."""
    if before == now:
        return True
    try:
        return find_method(before) is find_method(now)
    except UserError:
        return False
