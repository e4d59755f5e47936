"""Which run a folder and a checkpoint belong to, so that resuming never writes over another run."""

from __future__ import annotations

from pathlib import Path

from hjepa.config import Config, load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.runs.folder import RunFolder
from hjepa.runs.locate import checkpoints_in, find_checkpoint, is_named, read_start, run_of


def is_inside(checkpoint: Path, folder: RunFolder) -> bool:
    """Whether a checkpoint lies in the checkpoint folder of a run folder."""
    return checkpoint.resolve().parent == folder.checkpoints.resolve()


def own_folder(resume: str | Path) -> RunFolder | None:
    """The run folder that a checkpoint lies in, or that was given; None if there is none.

    Args:
        resume: a checkpoint or a run folder.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    checkpoint = find_checkpoint(resume)
    homes = [] if is_named(Path(resume)) else [Path(resume)]
    if checkpoint.parent.name == "checkpoints":
        homes.append(checkpoint.parent.parent)
    run = run_of(checkpoint)
    for home in homes:
        if _is_home(home, run):
            return RunFolder(home, checkpoint.parent)
    return _recorded_folder(checkpoint, run)


def _is_home(home: Path, run: str) -> bool:
    return (home / "config.yaml").is_file() and RunFolder(home, home).run in ("", run)


def _recorded_folder(checkpoint: Path, run: str) -> RunFolder | None:
    """The run folder that a checkpoint names, if the run keeps its checkpoints in a folder of their own."""
    state = read_start(checkpoint, verify=False)
    elsewhere = state["config"]["checkpoint"].get("checkpoint_dir")
    if not elsewhere or not state.get("run_dir") or Path(elsewhere).resolve() != checkpoint.parent.resolve():
        return None
    home = Path(state["run_dir"])
    return RunFolder(home, checkpoint.parent) if _is_home(home, run) else None


def folder_to_continue(config: Config, output_dir: str | Path | None, resume: str | Path | None) -> RunFolder | None:
    """The run's own folder, if a resumed run continues there because no other folder was given.

    Args:
        config: the configuration; ``logging.log_dir`` counts as given if it differs from that of the run's own folder.
        output_dir: the run folder, if given.
        resume: `auto`, a checkpoint or a run folder.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if output_dir is not None or resume is None or str(resume) == "auto":
        return None
    own = own_folder(resume)
    if own is None or config.logging.log_dir in (None, _log_dir(own)):
        return own
    return None


def _log_dir(folder: RunFolder) -> Path | None:
    try:
        return load_config(folder.root / "config.yaml").logging.log_dir
    except UserError:
        return None


def refuse_another_run(folder: RunFolder, resume: str | Path) -> None:
    """Refuse to resume into a folder whose checkpoints belong to another run.

    Args:
        folder: the folder that would be written to.
        resume: a checkpoint or a run folder.

    Raises:
        UserError: the folder holds another run, or one that cannot be shown to be the same; names both.
    """
    checkpoint = find_checkpoint(resume)
    if not holds_another_run(folder, checkpoint):
        return
    own = own_folder(checkpoint)
    home = "" if own is None else f", or --output-dir {own.root} to continue the run of the checkpoint there"
    raise UserError(
        f"{folder.root}: holds another run than {checkpoint}; choose another --output-dir to branch off, --resume auto to "
        f"continue the run in {folder.root}{home}"
    )


def holds_another_run(folder: RunFolder, checkpoint: Path) -> bool:
    """Whether a folder holds checkpoints of another run than the one that wrote ``checkpoint``."""
    there = checkpoints_in(folder.checkpoints)
    if not there:
        return False
    wrote, holds = run_of(checkpoint), folder.run or _first_run(there)
    if wrote and holds:
        return wrote != holds
    return not is_inside(checkpoint, folder)


def _first_run(checkpoints: list[Path]) -> str:
    for path in checkpoints:
        try:
            if run := run_of(path):
                return run
        except CheckpointError:
            continue
    return ""
