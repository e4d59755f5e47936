"""`hjepa watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    once: Annotated[bool, typer.Option("--once", help="Print one view and exit.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks at the files.")] = 2.0,
) -> None:
    """Show a running run live: progress, speed, losses, k-NN, health and the last lines of its log."""
    from hjepa.analysis import watch as run_watch

    try:
        run_watch(run, once=once, seconds=interval)
    except KeyboardInterrupt:
        # The usual way to leave; the run goes on.
        raise typer.Exit from None
