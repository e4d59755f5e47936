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
            metavar="[SECTION.KEY=VALUE]...", help="Keys that find or read the images, such as data.data_path."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint (.pth), or a run folder for its last one. Required.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Where to write; figures/ and report.html in the run folder when not given.")
    ] = None,
    generate_report: Annotated[
        bool, typer.Option("--generate-report", help="Write report.html too: one self-contained file.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
) -> None:
    """Draw a run: curves, masks, feature maps, nearest neighbours, the embedding; and the report."""
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
