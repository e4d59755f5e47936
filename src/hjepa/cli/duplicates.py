"""`hjepa duplicates`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hjepa.cli.log_lines import log_on_stderr

_SHOWN = 10


def duplicates(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, checkpoint, packed folder or shipped model.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Images, as for hjepa embed, or a file of hjepa embed.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATA.KEY=VALUE]...", help="Keys that find or read images, such as data.num_workers."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine similarity of near copies (default: measured on altered copies of your images)."),
    ] = None,
    outliers: Annotated[int, typer.Option(min=0, help="Number of outliers to list.")] = 20,
    level: Annotated[str | None, typer.Option(help="A level, last or all (default: all, or that of the file).")] = None,
    output: Annotated[
        list[Path] | None, typer.Option(help="File to write: .json, .csv or .png (the pictures); may be repeated.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per forward pass.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
) -> None:
    """Find near copies and outliers in a set of images."""
    from hjepa.embeddings import duplicates as run_duplicates

    with log_on_stderr():
        result = run_duplicates(
            run,
            data,
            threshold=threshold,
            outliers=outliers,
            level=level,
            output=output or (),
            device=device,
            batch_size=batch_size,
            force=force,
            overrides=overrides or (),
            console=True,
        )
    _show(result, complete=bool(output))


def _show(result: dict[str, Any], *, complete: bool) -> None:
    from hjepa.runtime.outputs import columns

    limit = result["threshold"]
    typer.echo(f"{result['images']:,} images; near copies from cosine {limit['value']:.4f} ({limit['chosen']})")
    if limit["copies_found"]:
        shares = ", ".join(f"{share:.0%} {kind}" for kind, share in limit["copies_found"].items())
        typer.echo(f"of altered copies of {limit['sample']} of these images it finds: {shares}")
    if result["doubt"]:
        typer.echo(result["doubt"])
    groups = result["groups"]
    typer.echo(f"\n{len(groups)} group(s) of near copies, {result['images_in_groups']} images")
    rows = []
    for number, group in enumerate(groups[:_SHOWN], start=1):
        for image in group["images"][:_SHOWN]:
            same = image["same_pixels_as"]
            how = f"same pixels as {same}" if same else f"{image['similarity']:.4f}"
            rows.append((str(number), how, image["label"] or "-", image["path"]))
    if rows:
        typer.echo(columns(("group", "cosine", "label", "path"), rows, right=(0,)))
    _more(len(groups) - _SHOWN, "groups", complete)
    odd = result["outliers"]
    unusual = sum(one["unusual"] for one in odd)
    typer.echo(f"\noutliers, least similar to their neighbours first ({unusual} unusual)")
    lines = [
        (str(o["rank"]), f"{o['distance']:.4f}", f"{o['score']:.1f}", o["label"] or "-", o["path"])
        for o in odd[:_SHOWN]
    ]
    if lines:
        typer.echo(columns(("rank", "distance", "score", "label", "path"), lines, right=(0, 1, 2)))
    _more(len(odd) - _SHOWN, "outliers", complete)


def _more(count: int, what: str, complete: bool) -> None:
    if count > 0:
        where = "see the output file" if complete else "use --output for all"
        typer.echo(f"and {count} more {what}; {where}")
