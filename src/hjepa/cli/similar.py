"""`hjepa similar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.cli.log_lines import log_on_stderr
from hjepa.errors import UserError


def similar(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, checkpoint, packed folder or shipped model.")],
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Image files.")],
    data: Annotated[
        str | None,
        typer.Option("--in", metavar="DATA", help="Where to search: images, or a file of hjepa embed. Required."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of neighbours.")] = 10,
    level: Annotated[str | None, typer.Option(help="A level, last or all (default: all, or that of the file).")] = None,
    output: Annotated[
        list[Path] | None, typer.Option(help="File to write: .json, .csv or .png (the pictures); may be repeated.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per forward pass.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
) -> None:
    """Show the images that are most similar to some pictures."""
    if data is None:
        raise UserError("--in: missing; give the images to search, or a file of hjepa embed")
    from hjepa.embeddings import similar as run_similar
    from hjepa.runtime.outputs import columns

    with log_on_stderr():
        result = run_similar(
            run,
            pictures,
            data,
            k=k,
            level=level,
            output=output or (),
            device=device,
            batch_size=batch_size,
            force=force,
            console=True,
        )
    for query in result["queries"]:
        typer.echo(query["path"])
        rows = [
            (str(near["rank"]), f"{near['similarity']:.4f}", near["label"] or "-", near["path"])
            for near in query["neighbours"]
        ]
        typer.echo(columns(("rank", "cosine", "label", "path"), rows, right=(0, 1)))
