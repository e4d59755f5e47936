"""`hjepa compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")],
    output: Annotated[
        list[Path] | None,
        typer.Option(help="File to write: .html (one self-contained page) or .json; may be repeated."),
    ] = None,
    cka: Annotated[
        bool, typer.Option("--cka", help="Also compare features level by level on the same images; loads the models.")
    ] = False,
    device: Annotated[str, typer.Option(help="For --cka: auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
) -> None:
    """Compare runs: differing keys first, then results, health and speed; curves on a page."""
    from hjepa.analysis import compare as run_comparison
    from hjepa.analysis.compare import table

    result = run_comparison(runs, output=output, cka=cka, device=device, force=force)
    typer.echo(table(result))
    for path in output or ():
        typer.echo(f"\nwrote {path}")
