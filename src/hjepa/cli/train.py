"""`hjepa train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Configuration keys, see `hjepa config show`."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML file or preset (default: quickstart).")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Run folder; overrides the configuration.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Stop after this many optimiser steps, counted from step 0.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, data order, crops and masks.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|auto",
            help="Continue from a checkpoint or run folder, in that run's own folder unless --output-dir or "
            "logging.log_dir is given; auto: the run in the output folder.",
        ),
    ] = None,
) -> None:
    """Pretrain on images without labels, evaluate against controls and write a report."""
    from hjepa.api import train as run

    result = run(
        config,
        output_dir=output_dir,
        device=device,
        epochs=int(epochs) if epochs is not None and epochs.is_integer() else epochs,
        max_steps=max_steps,
        seed=seed,
        resume=resume,
        overrides=overrides or (),
    )
    if result.interrupted:
        raise typer.Exit(130)
