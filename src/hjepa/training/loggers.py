"""Metric sinks (`metrics.jsonl`, TensorBoard, Weights & Biases) and the log file `training.log`."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from hjepa.errors import UserError
from hjepa.runtime.files import write_atomically

if TYPE_CHECKING:
    from hjepa.config import Config

log = logging.getLogger("hjepa")


class MetricSink(Protocol):
    """A destination of metric records."""

    def write(self, record: dict[str, Any]) -> None:
        """Write one record: `kind`, `step` and numbers by name."""

    def settle(self) -> None:
        """Flush to the disk, if the sink writes files of its own."""

    def close(self) -> None:
        """Flush and close."""


class JsonLines:
    """`metrics.jsonl`: one JSON object per line, written unbuffered so that a killed run loses none.

    Args:
        path: the file.
        step: step to resume from; later lines are dropped, since the resumed run writes them again.
        per_epoch: steps per epoch before and from now on, if that number changed; the steps of earlier lines are then
            counted anew from their epochs, so that all lines count steps alike, however often the run is resumed.
    """

    def __init__(self, path: Path, step: int, per_epoch: tuple[int, int] | None = None) -> None:
        if path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            if per_epoch is None:
                lines = [line for line in text.splitlines() if _step(line) <= step]
            else:
                lines = _recounted(text.splitlines(), step, *per_epoch)
            kept = "".join(line + "\n" for line in lines)
            if kept != text:
                write_atomically(path, kept)
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._whole = self._file.tell()
        self._waiting = b""

    def write(self, record: dict[str, Any]) -> None:
        """Append a line. If the disk is full, it stays in memory and is written with a later one."""
        told = bool(self._waiting)
        self._waiting += json.dumps(record).encode() + b"\n"
        try:
            self._append()
        except OSError as error:
            if not told:
                log.error(
                    "%s: cannot be written (%s); records are kept in memory until it can", self._path, error.strerror
                )

    def _append(self) -> None:
        try:
            left = memoryview(self._waiting)
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # Remove a partial line, which would corrupt the next one.
            self._file.truncate(self._whole)
            raise
        self._whole += len(self._waiting)
        self._waiting = b""

    def settle(self) -> None:
        """Flush to the disk."""
        # A failure was already reported by `write`, or will be by the checkpoint that follows.
        with contextlib.suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._waiting:
            try:
                self._append()
            except OSError as error:
                lost = self._waiting.count(b"\n")
                log.error("%s: %d records could not be written (%s)", self._path, lost, error.strerror)
        self._file.close()


def _recounted(lines: list[str], step: int, before: int, now: int) -> list[str]:
    """The lines up to a step, with steps counted at another number of steps per epoch."""
    records = [json.loads(line) for line in lines if math.isfinite(_step(line))]
    # By epoch, not by step: a run killed soon after it was resumed leaves lines that are already counted anew.
    placed = [(record.get("epoch", record["step"] / before), record) for record in records]
    return [json.dumps(record | {"step": round(epoch * now)}) for epoch, record in placed if epoch <= step / before]


def _step(line: str) -> float:
    # A line truncated by a crash is dropped, like those that will be written again.
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TensorBoard:
    """TensorBoard event files."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def write(self, record: dict[str, Any]) -> None:
        """Add every number as a scalar."""
        for name, value in _numbers(record).items():
            self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def settle(self) -> None:
        """Nothing to do: TensorBoard's writer flushes by itself."""

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases (optional).

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "logging.wandb.enabled: the package wandb is not installed; `pip install 'hjepa[wandb]'` or set it to false"
            ) from None
        settings = config.logging.wandb
        self._run = wandb.init(
            project=settings.project,
            name=config.logging.experiment_name,
            tags=settings.tags,
            dir=str(folder),
            config=config.model_dump(mode="json"),
            resume="allow",
        )

    def write(self, record: dict[str, Any]) -> None:
        """Log every number."""
        self._run.log({f"{record['kind']}/{n}": v for n, v in _numbers(record).items()}, step=record["step"])

    def settle(self) -> None:
        """Nothing to do: the client uploads by itself."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _numbers(record: dict[str, Any]) -> dict[str, float]:
    return {n: v for n, v in record.items() if isinstance(v, (int, float)) and n not in ("step", "time")}


def open_sinks(
    config: Config, folder: Path, step: int, renamed: int, per_epoch: tuple[int, int] | None = None
) -> list[MetricSink]:
    """Open the sinks of a configuration; see `JsonLines` for ``step`` and ``per_epoch``. ``renamed`` is the step as
    counted from now on."""
    sinks: list[MetricSink] = [JsonLines(folder / "metrics.jsonl", step, per_epoch)]
    if config.logging.tensorboard.enabled:
        sinks.append(TensorBoard(folder / "tensorboard", renamed))
    if config.logging.wandb.enabled:
        sinks.append(WeightsAndBiases(config, folder))
    return sinks


class _File(logging.FileHandler):
    """A log file that reports a full disk once and never stops the program."""

    def __init__(self, path: Path) -> None:
        # File names may hold bytes that are not valid text; they are written as \\udcXX.
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        """Report a write error; called inside the exception handler."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(f"hjepa: {self.baseFilename}: cannot be written ({error.strerror})", file=sys.stderr)

    def close(self) -> None:
        """Close the file; an error here was already reported."""
        with contextlib.suppress(OSError):
            super().close()


class _Console(logging.StreamHandler[TextIO]):
    """Standard output; characters that its encoding lacks are written as backslash escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)


class LogFile:
    """Context in which log messages go to `training.log` and to the console.

    Args:
        path: the log file.
        console: write to standard output too.
    """

    def __init__(self, path: Path, *, console: bool = True) -> None:
        self._handlers: list[logging.Handler] = [_File(path)]
        self._handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        if console:
            stream = _Console(sys.stdout)
            stream.setFormatter(logging.Formatter("%(message)s"))
            self._handlers.append(stream)
        self._level = log.level

    def __enter__(self) -> LogFile:
        for handler in self._handlers:
            log.addHandler(handler)
        log.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        log.setLevel(self._level)
        for handler in self._handlers:
            log.removeHandler(handler)
            handler.close()
