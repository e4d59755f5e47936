"""`hjepa embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.cli.log_lines import log_on_stderr
from hjepa.errors import UserError


def embed(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, checkpoint, packed folder or shipped model.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Data set name, folder of images, Parquet, or tar shards; labelled or not."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA.KEY=VALUE]...", help="Keys that find or read images, such as data.num_workers."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write, .parquet or .npy. Required.")] = None,
    level: Annotated[str, typer.Option(help="A level, last (the coarsest) or all.")] = "all",
    pool: Annotated[
        str, typer.Option(metavar="[mean|max]", help="How the cells of a level become one vector.")
    ] = "mean",
    normalize: Annotated[bool, typer.Option("--normalize", help="Divide each level's vector by its length.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per forward pass.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
) -> None:
    """Write one vector for every image of a data set; a stopped command continues where it was."""
    if output is None:
        raise UserError("--output: missing; give a file to write, .parquet or .npy")
    from hjepa.embeddings import embed as run_embed

    with log_on_stderr():
        about = run_embed(
            run,
            data,
            output,
            level=level,
            pool=pool,
            normalize=normalize,
            device=device,
            batch_size=batch_size,
            force=force,
            overrides=overrides or (),
            console=True,
        )
    left = about["left_out"]
    more = f", {left} left out because they cannot be read" if left else ""
    typer.echo(f"{output}: {about['count']:,} images, {about['dimensions']} dimensions{more}")
