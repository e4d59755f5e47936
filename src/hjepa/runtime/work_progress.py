"""How far a long piece of work outside training is: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

log = logging.getLogger("hjepa")

SECONDS_BETWEEN_LINES = 4.0


class WorkProgress:
    """Progress through a known number of pieces, from entering the context to leaving it.

    Lines go to the log, so whoever wants silence gets it by not showing the log. The first line comes after `every`
    seconds at the earliest, so work that is done sooner says nothing.

    Args:
        title: what is being done, before the count: "evaluation: encoding".
        total: number of pieces.
        unit: what a piece is, in the plural.
        console: draw a bar where standard output is a terminal; lines are then logged as DEBUG.
        every: seconds between two lines, `SECONDS_BETWEEN_LINES` when not given.
        clock: seconds that only grow.

    Example:
        >>> with WorkProgress("figures: drawing", 2, "figures") as progress:
        ...     progress.advance(note="curves")
        ...     progress.advance(note="masks")
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        *,
        console: bool = False,
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._every, self._clock = SECONDS_BETWEEN_LINES if every is None else every, clock
        self._done = 0
        self._drawn = console and sys.stdout.isatty()
        self._bar: Any = None

    def __enter__(self) -> WorkProgress:
        self._last = self._clock()
        if self._drawn:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            # Gone when the work is done, so that what is printed next stands where it would without a bar.
            self._bar = Progress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(file=sys.stdout),
                transient=True,
            )
            self._task = self._bar.add_task(self._title, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, pieces: int = 1, note: str = "") -> None:
        """Some pieces are done.

        Args:
            pieces: how many.
            note: which, if they have names.
        """
        self._done += pieces
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=" ".join(filter(None, [self._title, note])))
        if self._clock() - self._last < self._every:
            return
        self._last = self._clock()
        log.log(
            logging.DEBUG if self._drawn else logging.INFO,
            "%s: %d of %d %s%s",
            self._title,
            self._done,
            self._total,
            self._unit,
            f" ({note})" if note else "",
        )
