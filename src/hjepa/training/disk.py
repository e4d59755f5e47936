"""Disk that the checkpoints of a run take."""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING

from hjepa.runs.checkpoint import require_space

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from hjepa.runs.folder import RunFolder

log = logging.getLogger("hjepa")

# Beside those to keep: last.pth, the best, the newest, and the one being written.
_OTHERS = 4


def checkpoint_bytes(method: nn.Module) -> int:
    """Size of one checkpoint: weights, and two moments for each trained weight."""
    return sum(p.numel() * p.element_size() * (3 if p.requires_grad else 1) for p in method.parameters())


def checkpoints_at_most(keep: int) -> int:
    """Number of checkpoints on the disk at the same time.

    Args:
        keep: ``checkpoint.keep_best_n``.
    """
    return keep + _OTHERS


def check_space(folder: RunFolder, method: nn.Module, keep: int) -> None:
    """Raise `UserError` if not even one checkpoint fits on the disk; warn if not all those to be kept will fit."""
    size = checkpoint_bytes(method)
    require_space(folder.checkpoints, size, folder.checkpoints / "last.pth")
    warning = space_warning(folder.checkpoints, folder.checkpoints, size * checkpoints_at_most(keep))
    if warning is not None:
        log.warning("%s", warning)


def space_warning(folder: Path, existing: Path, needed: int) -> str | None:
    """What to say if the checkpoints will not fit.

    Args:
        folder: where they will be.
        existing: a folder on the same disk that exists.
        needed: bytes.
    """
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    return (
        f"{folder}: checkpoints will need about {needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free; lower "
        "checkpoint.keep_best_n or free some space"
    )
