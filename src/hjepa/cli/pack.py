"""`hjepa pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.errors import UserError


def pack(
    checkpoint: Annotated[Path | None, typer.Option(help="Run folder or checkpoint (.pth). Required.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write. Required.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model (default: that of the output folder).")] = None,
    reproduce: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Command in the card that reproduces the run (default: the run's own)."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Description of the images in the card (default: the data set's)."),
    ] = None,
) -> None:
    """Pack the encoder of a run: half-precision safetensors, configuration, results and a model card."""
    if checkpoint is None or output is None:
        raise UserError(f"--{'checkpoint' if checkpoint is None else 'output'}: missing; see hjepa pack --help")
    from hjepa.zoo import pack_run

    folder = pack_run(checkpoint, output, name=name or output.name, command=reproduce, data=data)
    for file in sorted(folder.iterdir()):
        typer.echo(f"{file}  {file.stat().st_size / 1e6:.2f} MB")
