"""`hjepa visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.cli.log_lines import log_on_stderr
from hjepa.errors import UserError


def visualize(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...", help="Keys that locate or load the images, such as data.data_path."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint (.pth), or run folder (last checkpoint). Required.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Folder to write (default: figures/ and report.html in the run folder).")
    ] = None,
    generate_report: Annotated[
        bool, typer.Option("--generate-report", help="Also write report.html, a self-contained file.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
) -> None:
    """Plot curves, masks, feature maps, nearest neighbours and the embedding of a run; optionally write its report."""
    if checkpoint is None:
        raise UserError("--checkpoint: missing; give a checkpoint (.pth) or a run folder")
    from hjepa.visualization import visualize as run

    with log_on_stderr():
        written = run(
            checkpoint,
            output_dir=output_dir,
            generate_report=generate_report,
            device=device,
            overrides=overrides or (),
            console=True,
        )
    for path in written:
        print(path)
