"""Find the checkpoint that a path refers to, and the one that a run resumes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.config import load_config
from hjepa.errors import CheckpointError
from hjepa.runs.checkpoint import Header, read_checkpoint, read_header
from hjepa.runs.sharded import STATE, SUFFIX, read_sharded


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path refers to: the path itself, or the newest one of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_file() or _is_sharded(path):
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder; give a checkpoint (.pth) or a run folder")
    folders = [path, path / "checkpoints"]
    settings = path / "config.yaml"
    if settings.is_file():
        elsewhere = load_config(settings).checkpoint.checkpoint_dir
        if elsewhere is not None:
            folders.append(elsewhere)
    for folder in folders:
        found = last_checkpoint(folder)
        if found is not None:
            return found
    raise CheckpointError(f"{path}: no checkpoints/last.pth in this folder; give a checkpoint (.pth) or a run folder")


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of a folder, a single file or sharded; if both exist, the one with more steps."""
    there = [path for path in (folder / f"last{suffix}" for suffix in (".pth", SUFFIX)) if path.exists()]
    return max(there, key=_step, default=None)


def is_named(path: Path) -> bool:
    """Whether a path is a checkpoint rather than a run folder."""
    return path.is_file() or _is_sharded(path)


def _is_sharded(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and path.is_dir()


def _header(path: Path) -> Header | None:
    return read_header(path / STATE if _is_sharded(path) else path)


def _step(path: Path) -> int:
    header = _header(path)
    return -1 if header is None else header.step


def run_of(path: Path) -> str:
    """Identity of the run that wrote a checkpoint, from its header; empty if it has none (format 1).

    Raises:
        CheckpointError: not a checkpoint, or damaged.
    """
    header = _header(path)
    return str(read_start(path, verify=False)["run"]) if header is None else header.run


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints in a folder, by name."""
    return sorted(p for suffix in (".pth", SUFFIX) for p in folder.glob(f"*{suffix}") if not p.name.startswith("."))


def read_whole(path: Path) -> dict[str, Any]:
    """Read a whole checkpoint, a single file or sharded.

    Raises:
        CheckpointError: not a checkpoint, or damaged.
    """
    return read_sharded(path) if _is_sharded(path) else read_checkpoint(path)


def read_start(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint to resume from; `load_shards` reads the tensors of a sharded one later.

    Args:
        path: a checkpoint.
        verify: check the digests of shards.

    Raises:
        CheckpointError: not a checkpoint, or damaged.
    """
    return read_sharded(path, tensors=False, verify=verify) if _is_sharded(path) else read_checkpoint(path)


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run resumes from.

    Attributes:
        checkpoint: the file, or the folder of shards.
        state: its contents, see `read_start`.
        notes: messages about newer checkpoints that could not be used.
    """

    checkpoint: Path
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


def newest_usable(folder: Path, run: str) -> Start | None:
    """The newest checkpoint of a folder that is intact and belongs to this run.

    ``last.pth`` is tried first, then the others from the newest step down.

    Args:
        folder: folder of checkpoints.
        run: identity of the run; empty accepts any.

    Returns:
        None if the folder holds no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    problems: list[str] = []
    found: list[tuple[bool, int, Path]] = []
    for file in checkpoints_in(folder):
        try:
            header = _header(file)
            step = read_start(file)["step"] if header is None else header.step
        except CheckpointError as error:
            problems.append(str(error))
            continue
        found.append((file.stem == "last", step, file))
    for _, _, file in sorted(found, reverse=True):
        try:
            state = read_start(file)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if run and state["run"] and state["run"] != run:
            problems.append(
                f"{file}: belongs to another run; to resume from it anyway, pass it to --resume with another --output-dir"
            )
            continue
        notes = (problem.split("; ")[0] + f"; using {file} instead" for problem in problems)
        return Start(file, state, tuple(notes))
    if problems:
        last = str(folder / "last.")
        raise CheckpointError(next((p for p in problems if p.startswith(last)), problems[0]))
    return None
