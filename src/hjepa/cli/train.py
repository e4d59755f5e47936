"""`hjepa train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hjepa.errors import UserError


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
    profile: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="[STEPS]",
            help="Profile this many steps (10 if no number is given) after the first five: profile.md and a trace for "
            "Perfetto in the run folder.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Take a few steps, say what the run would do and what it would take, and write nothing.",
        ),
    ] = False,
) -> None:
    """Pretrain on images without labels, evaluate against controls and write a report."""
    import hjepa

    keys: dict[str, Any] = {
        "output_dir": output_dir,
        "device": device,
        "epochs": int(epochs) if epochs is not None and epochs.is_integer() else epochs,
        "max_steps": max_steps,
        "seed": seed,
        "overrides": overrides or (),
    }
    if dry_run:
        if resume is not None or profile is not None:
            raise UserError("--dry-run: describes a new run from its first step; leave out --resume and --profile")
        typer.echo(str(hjepa.dry_run(config, **keys)))
        return
    result = hjepa.train(config, **keys, resume=resume, profile=profile)
    if result.interrupted:
        raise typer.Exit(130)
