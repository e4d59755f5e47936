"""`hjepa ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.cli.arguments import split
from hjepa.errors import UserError


def ablate(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="YAML file, or name of a study that ships with hjepa.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Configuration keys changed in every cell."),
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Study folder (default: runs/studies/<name>).")] = None,
    seeds: Annotated[list[str] | None, typer.Option(help="Train only these seeds, for example 0,1.")] = None,
    cells: Annotated[
        list[str] | None, typer.Option(help="Train only this cell; repeat the option for several.", metavar="CELL")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Preset or YAML file that every cell starts from, instead of the study's.", metavar="FILE|PRESET"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the cells and show their images and FLOP; train nothing.")
    ] = False,
    final: Annotated[
        bool,
        typer.Option("--final", help="Also read test, once everything is chosen; written to final.*."),
    ] = False,
    list_studies: Annotated[bool, typer.Option("--list", help="List the studies that ship with hjepa.")] = False,
) -> None:
    """Compare configurations: train a grid of cells with paired seeds at equal budget, and write a table and a plot.

    Runs are evaluated on validation images; --final also reads test.

    Run the same command again to continue a study that was stopped.
    """
    from hjepa.config import parse_override
    from hjepa.research import load_study, run_study, study_names
    from hjepa.research.summary import format_study

    if list_studies:
        for name in study_names():
            _, known = load_study(name)
            typer.echo(f"{name:<16}{len(known.all_cells())} cells x {len(known.seeds)} seeds  {known.title}")
        return
    if study is None:
        raise UserError(f"STUDY: missing; give a YAML file or one of {', '.join(study_names())}")
    outcome = run_study(
        study,
        output_dir=output_dir,
        seeds=_seeds(seeds),
        cells=cells,
        base=base,
        overrides=dict(parse_override(text) for text in overrides or ()),
        device=device,
        dry_run=dry_run,
        final=final,
    )
    if dry_run:
        typer.echo(format_study(outcome.results))
        return
    if outcome.interrupted:
        typer.echo("stopped; run the same command again to continue")
        raise typer.Exit(130)
    for row in outcome.results["cells"]:
        for run in row["runs"]:
            if "failed" in run:
                typer.echo(f"{row['name']}, seed {run['seed']}: {run['failed']}")
    stems = ("results", "final") if final else ("results",)
    names = [f"{stem}{end}" for stem in stems for end in (".md", ".json", ".png")]
    names = [name for name in names if (outcome.folder / name).is_file()]
    typer.echo(f"wrote {', '.join(names)} in {outcome.folder}")


def _seeds(values: list[str] | None) -> list[int] | None:
    if values is None:
        return None
    found = []
    for part in split(values):
        if not (part.isascii() and part.isdigit()):
            raise UserError(f"--seeds: {part!r} is not a whole number of 0 or more; for example --seeds 0,1,2")
        found.append(int(part))
    return found
