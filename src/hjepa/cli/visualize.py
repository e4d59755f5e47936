"""`hjepa visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.cli.arguments import split
from hjepa.cli.log_lines import log_on_stderr
from hjepa.errors import UserError


def visualize(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN] [SECTION.KEY=VALUE]...",
            help="Run folder, checkpoint, packed folder or shipped model; keys that locate or load the images, such as "
            "data.data_path.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The same as RUN: a checkpoint (.pth) or a run folder (last checkpoint).")
    ] = None,
    figures: Annotated[
        list[str] | None,
        typer.Option(help="Figures to draw, separated by commas (default: all; --list shows their names)."),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Your own pictures instead of held-out images: files, or a folder. Give RUN first."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output", "--output-dir", help="Folder to write (default: figures/ and report.html in the run folder)."
        ),
    ] = None,
    file_format: Annotated[str, typer.Option("--format", help="png or svg.")] = "png",
    generate_report: Annotated[
        bool, typer.Option("--generate-report", help="Also write report.html, a self-contained file.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite figures that exist.")] = False,
    names: Annotated[bool, typer.Option("--list", help="List the figures and exit.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
) -> None:
    """Plot what a run learned: curves, masks, attention, predictions, feature maps and more; optionally its report."""
    if names:
        _print_names()
        return
    run, overrides = _sort_out(arguments or [], checkpoint)
    from hjepa.visualization import visualize as draw

    with log_on_stderr():
        written = draw(
            run,
            figures=None if figures is None else split(figures),
            images=images or (),
            output_dir=output_dir,
            generate_report=generate_report,
            file_format=file_format,  # type: ignore[arg-type]  # checked there
            force=force,
            device=device,
            overrides=overrides,
            console=True,
        )
    for path in written:
        print(path)


def _sort_out(arguments: list[str], checkpoint: Path | None) -> tuple[str | Path, list[str]]:
    """The run, and the overrides: an argument with `=` is an override unless there is such a file or folder."""
    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    runs = [text for text in arguments if text not in overrides]
    if checkpoint is not None:
        if runs:
            raise UserError(f"{runs[0]}: unexpected, as --checkpoint is given; for your own pictures use --images")
        return checkpoint, overrides
    if len(runs) > 1:
        raise UserError(f"{runs[1]}: unexpected after {runs[0]}; give one run, and your own pictures with --images")
    if not runs:
        raise UserError("--checkpoint: missing; give a run folder, a checkpoint (.pth) or a shipped model")
    return runs[0], overrides


def _print_names() -> None:
    from hjepa.visualization.catalogue import KINDS

    width = max(len(kind.name) for kind in KINDS)
    for kind in KINDS:
        print(f"{kind.name:<{width}}  {kind.about}")
