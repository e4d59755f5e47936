"""`hjepa analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def analyze(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, or a checkpoint in it; also of a running run.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for analysis.md, analysis.png and analysis.json (default: the run folder)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier analysis.")] = False,
) -> None:
    """Tell how a run is doing or how it went: convergence, speed, stability, health, problems, and what to do next."""
    from hjepa.analysis import analyze as run_analysis
    from hjepa.analysis.analyze import FILES
    from hjepa.analysis.markdown import summary

    result = run_analysis(run, output=output, force=force)
    typer.echo(summary(result))
    folder = Path(result["run"]) if output is None else output
    typer.echo(f"\nwrote {', '.join(str(folder / name) for name in FILES)}")
