"""Progress display: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol

log = logging.getLogger("hjepa")

_COLOURS = {"green": "green", "amber": "yellow", "red": "red"}


class Display(Protocol):
    """What the loop tells about its progress."""

    def advance(self, step: int) -> None:
        """Report that a step is done."""

    def report(self, record: dict[str, Any], seconds_left: float) -> None:
        """Report that a logging interval is done."""

    def close(self) -> None:
        """The run has ended."""


class Progress:
    """Progress of a run.

    Args:
        first, last: first and last step of this part of the run.
        bar: draw a bar rather than log a line per logging interval; if None, whether standard output is a terminal.
    """

    def __init__(self, first: int, last: int, *, bar: bool | None = None) -> None:
        self._last = last
        self._bar = sys.stdout.isatty() if bar is None else bar
        self._progress: Any = None
        if self._bar:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._progress = RichProgress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(file=sys.stdout),
            )
            self._task = self._progress.add_task("warming up", total=last, completed=first)
            self._progress.start()

    def advance(self, step: int) -> None:
        """Report that a step is done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def report(self, record: dict[str, Any], seconds_left: float) -> None:
        """Report that a logging interval is done."""
        text = describe(record)
        if self._progress is not None:
            from rich.markup import escape

            light = record.get("health")
            shown = "" if light is None else f"[{_COLOURS[light]}]\N{BLACK CIRCLE}[/] "
            self._progress.update(self._task, description=shown + escape(text))
        log.log(
            logging.DEBUG if self._bar else logging.INFO,
            "step %d/%d  epoch %.2f  %s  left %s",
            record["step"],
            self._last,
            record["epoch"],
            text,
            duration(seconds_left),
        )

    def close(self) -> None:
        """Stop the bar."""
        if self._progress is not None:
            self._progress.stop()


def describe(record: dict[str, Any]) -> str:
    """One line for a training record: loss and chance level of every level, learning rate, throughput, health."""
    levels = []
    level = 0
    while f"loss/level_{level}" in record and f"chance/level_{level}" in record:
        levels.append(f"{record[f'loss/level_{level}']:.3f}/{record[f'chance/level_{level}']:.3f}")
        level += 1
    beside = f"level/chance {' '.join(levels)}  " if levels else ""
    return (
        f"loss {record['loss']:.3f}  {beside}lr {record['lr']:.2e}  "
        f"{record['images_per_second']:.0f} img/s  data wait {record['data_wait']:.0%}"
        + (f"  health {record['health']}" if "health" in record else "")
    )


def duration(seconds: float) -> str:
    """Format seconds: `45s`, `3m20s`, `2h05m`."""
    total = int(seconds + 0.5)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    return f"{total // 3600}h{total % 3600 // 60:02d}m"
