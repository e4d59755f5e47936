"""Which checkpoint a path means, and which one a run goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.config import load_config
from hjepa.errors import CheckpointError
from hjepa.runs.checkpoint import Header, read_checkpoint, read_header
from hjepa.runs.sharded import STATE, SUFFIX, read_sharded


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path means: itself, or the newest one of a run folder.

    Raises:
        CheckpointError: nothing there.
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
    raise CheckpointError(f"{path}: holds no checkpoints/last.pth; is it a run folder?")


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint of a folder, in one file or in shards: of both the one that is further."""
    there = [path for path in (folder / f"last{suffix}" for suffix in (".pth", SUFFIX)) if path.exists()]
    return max(there, key=_step, default=None)


def is_named(path: Path) -> bool:
    """Whether a path is a checkpoint itself, and no folder of a run."""
    return path.is_file() or _is_sharded(path)


def _is_sharded(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and path.is_dir()


def _header(path: Path) -> Header | None:
    return read_header(path / STATE if _is_sharded(path) else path)


def _step(path: Path) -> int:
    header = _header(path)
    return -1 if header is None else header.step


def read_whole(path: Path) -> dict[str, Any]:
    """Everything that a checkpoint holds, in one file or in shards.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
    """
    return read_sharded(path) if _is_sharded(path) else read_checkpoint(path)


def read_start(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """What a run goes on from; the tensors of a sharded checkpoint are left for `load_shards` to read.

    Args:
        path: a checkpoint.
        verify: compare the digests of shards.

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
    """
    return read_sharded(path, tensors=False, verify=verify) if _is_sharded(path) else read_checkpoint(path)


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run goes on from.

    Attributes:
        checkpoint: the file, or the folder of shards.
        state: what it holds, see `read_start`.
        notes: what to say about others that could not be used.
    """

    checkpoint: Path
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


def newest_usable(folder: Path, run: str) -> Start | None:
    """The newest checkpoint of a folder that is whole and of this run: in place of a damaged one, the one before.

    ``last.pth`` comes first, then the others by their step.

    Args:
        folder: holds checkpoints.
        run: identity of the run; empty accepts any.

    Returns:
        nothing if the folder holds no checkpoint.

    Raises:
        CheckpointError: there are checkpoints and none can be used.
    """
    problems: list[str] = []
    found: list[tuple[bool, int, Path]] = []
    there = [p for suffix in (".pth", SUFFIX) for p in folder.glob(f"*{suffix}") if not p.name.startswith(".")]
    for file in sorted(there):
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
            problems.append(f"{file}: belongs to another run; to go on from it all the same, name it with --resume")
            continue
        notes = (problem.split("; ")[0] + f"; going on from {file} instead" for problem in problems)
        return Start(file, state, tuple(notes))
    if problems:
        last = str(folder / "last.")
        raise CheckpointError(next((p for p in problems if p.startswith(last)), problems[0]))
    return None
