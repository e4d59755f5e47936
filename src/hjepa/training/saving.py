"""Which checkpoints of a run are written and kept, and writing them in the background."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hjepa.errors import UserError
from hjepa.runs.checkpoint import copy_checkpoint, save_checkpoint, snapshot
from hjepa.runs.sharded import SUFFIX, copy_sharded, save_sharded
from hjepa.runtime import distribution

log = logging.getLogger("hjepa")

LAST = "last"
BEST = "best_model"
LAST_GOOD = "last_good"


class WholeFiles:
    """Checkpoints as single files, written by one process."""

    suffix = ".pth"
    together = False

    def copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """A copy that can be written while training continues."""
        copied: dict[str, Any] = snapshot(state)
        return copied

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint in one step. Raises `UserError` if that cannot be."""
        save_checkpoint(path, state)

    def copy(self, source: Path, path: Path) -> None:
        """Copy a checkpoint in one step. Raises `UserError` if that cannot be."""
        copy_checkpoint(source, path)

    def remove(self, path: Path) -> None:
        """Remove a checkpoint, if it is there."""
        path.unlink(missing_ok=True)


class ShardedFolders:
    """Checkpoints as folders that all processes write together; every process must call every method."""

    suffix = SUFFIX
    together = True

    def copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state itself, without a copy: training waits until it is written."""
        return state

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint in one step. Raises `UserError` if that cannot be."""
        save_sharded(path, state)

    def copy(self, source: Path, path: Path) -> None:
        """Copy a checkpoint in one step. Raises `UserError` if that cannot be."""
        distribution.by_main(lambda: copy_sharded(source, path))

    def remove(self, path: Path) -> None:
        """Remove a checkpoint, if it is there."""
        distribution.by_main(lambda: shutil.rmtree(path, ignore_errors=True))


class BackgroundJob:
    """Runs one job at a time, in a thread.

    The thread is not a daemon, so the interpreter waits for it at exit and never truncates a checkpoint.

    Args:
        enabled: use a thread; otherwise jobs run in the caller.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Run a job. Call `finish` first, or the error of the previous job is lost."""
        assert self._thread is None

        def run() -> None:
            try:
                job()
            except BaseException as error:
                self._error = error

        if not self._enabled:
            run()
            return
        self._thread = threading.Thread(target=run, name="hjepa-checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the running job. Re-raises its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error


class Retention:
    """Keeps ``last.pth``, the best N periodic checkpoints and a copy of the best.

    Saving copies the state to main memory and writes it in a thread. A save that fails (a full disk) is logged and
    leaves the files on the disk as they were; training continues and the next save tries again. Only the last save of a
    run raises.

    Args:
        folder: folder of the checkpoints.
        keep: number of periodic checkpoints to keep, best first; the newest is kept as well.
        background: write in a thread while training continues; ignored if all processes write together.
        files: how a checkpoint is written.

    Attributes:
        scores: file name -> score of the periodic checkpoints on disk, higher is better.
        best: best score so far.
    """

    def __init__(
        self, folder: Path, keep: int, *, background: bool = False, files: WholeFiles | ShardedFolders | None = None
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.files = files or WholeFiles()
        self.together = self.files.together
        self.scores: dict[str, float] = {}
        self.best: float | None = None
        self._job = BackgroundJob(enabled=background and not self.together)
        self._before: tuple[dict[str, float], float | None] = ({}, None)
        self._removed: list[str] = []
        self._on_disk: int | None = None

    def file(self, name: str) -> str:
        """File name of a checkpoint, with its suffix."""
        return name + self.files.suffix

    def save(
        self,
        state: dict[str, Any],
        *,
        periodic: Sequence[str] = (),
        score: float = 0.0,
        best: bool = False,
        also: Sequence[str] = (),
    ) -> None:
        """Write ``last.pth`` and the checkpoints that are due; returns as soon as the state is copied.

        Args:
            state: tensors and plain values.
            periodic: names of periodic checkpoints to write; the worst ones beyond the number to keep are removed.
            score: of this state.
            best: write ``best_model.pth`` too if the score is the best so far.
            also: names of further files to write, which are never removed.
        """
        self.wait()
        self._before = dict(self.scores), self.best
        # last.pth is written last, so that the files it lists exist even after a crash.
        names = [*periodic, *also, self.file(LAST)]
        if best and (self.best is None or score > self.best):
            self.best = score
            names.insert(0, self.file(BEST))
        self.scores |= dict.fromkeys(periodic, score)
        ranked = sorted(self.scores, key=lambda name: self.scores[name], reverse=True)
        # Only a new periodic checkpoint displaces others, and the newest is always kept.
        removed = [name for name in ranked[self.keep :] if name not in periodic] if periodic else []
        for name in removed:
            del self.scores[name]
        self._removed = removed
        copied = self.files.copied(state | {"retention": self.state()})

        def write() -> None:
            self.files.write(self.folder / names[0], copied)
            for name in names[1:]:
                self.files.copy(self.folder / names[0], self.folder / name)
            for name in removed:
                self.files.remove(self.folder / name)
            self._on_disk = state["step"]

        self._on_disk = None
        self._job.start(write)

    def save_last(self, state: dict[str, Any]) -> Path:
        """Write the last checkpoint and wait until it is on the disk.

        Raises:
            UserError: it cannot be written; the previous one is left unchanged.
        """
        self.wait()
        if self._on_disk != state["step"]:
            self.save(state)
            self._job.finish()
        return self.folder / self.file(LAST)

    def wait(self) -> None:
        """Wait for the running save; a failed one is logged and dropped."""
        try:
            self._job.finish()
        except UserError as error:
            self.scores, self.best = self._before
            log.error("%s. Training continues; the next save tries again", error)

    def ensure_best(self) -> None:
        """Copy the last checkpoint to the best one if the run was never evaluated."""
        best, last = self.folder / self.file(BEST), self.folder / self.file(LAST)
        if not best.exists() and last.exists():
            self.files.copy(last, best)

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, as plain values."""
        return {"scores": dict(self.scores), "best": self.best, "removed": list(self._removed)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; files that no longer exist are dropped."""
        self.best = state["best"]
        self.scores = {name: s for name, s in state["scores"].items() if (self.folder / name).exists()}
        # A process killed between writing and removing leaves these behind.
        for name in state.get("removed", ()):
            self.files.remove(self.folder / name)
