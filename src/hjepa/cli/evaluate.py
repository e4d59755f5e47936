"""`hjepa evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hjepa.cli.arguments import split
from hjepa.cli.log_lines import log_on_stderr
from hjepa.errors import UserError


def evaluate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...", help="Keys that select or load images (data.*, evaluation.*)."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint (.pth), run folder (last checkpoint), packed folder or shipped model. Required."),
    ] = None,
    read_split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="[validation|test]",
            help="Images to evaluate on: validation to choose between runs, test to report the chosen one.",
        ),
    ] = "test",
    dataset: Annotated[
        list[str] | None, typer.Option(help="Evaluate on this data set instead of the run's; may be repeated.")
    ] = None,
    data_path: Annotated[
        list[str] | None,
        typer.Option(help="Where the data set is; repeated in the order of --dataset, - where none is needed."),
    ] = None,
    eval_type: Annotated[
        list[str] | None,
        typer.Option(
            help="Protocols, separated by commas, or all (default: linear_probe,knn); see docs/evaluation.md."
        ),
    ] = None,
    k_values: Annotated[list[str] | None, typer.Option(help="Numbers of neighbours (default: 1,5,10,20).")] = None,
    hierarchy_levels: Annotated[
        list[str] | None, typer.Option(help="Levels to report separately, for example 0,2 (default: all).")
    ] = None,
    depths: Annotated[
        list[str] | None,
        typer.Option(help="Also evaluate the concatenated features after these encoder blocks, for example 2,4,6."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare also with timm:NAME or torchvision:NAME (@random or @FILE for other weights); naming any of "
            "untrained, pixels, pca leaves out the others of these three."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Results file, or folder for several data sets (default: results.json or results_validation.json in "
            "the run folder)."
        ),
    ] = None,
) -> None:
    """Evaluate a model by linear probe and k-NN, with raw pixels, PCA and the untrained model as controls."""
    if checkpoint is None:
        raise UserError("--checkpoint: missing; give a checkpoint (.pth) or a run folder")
    ks = _numbers(k_values, "--k-values", "1,5,10,20")
    levels = _numbers(hierarchy_levels, "--hierarchy-levels", "0,1")
    blocks = _numbers(depths, "--depths", "2,4,6")

    from hjepa.evaluation import evaluate_each, print_blocks, print_table, print_transfer
    from hjepa.evaluation.protocols import DEFAULT_TYPES
    from hjepa.evaluation.settings import CONTROLS
    from hjepa.evaluation.transfer import pair

    sets = pair(dataset or (), data_path or ())
    asked = split(control)
    with log_on_stderr():
        results = evaluate_each(
            checkpoint,
            sets,
            split=read_split,
            eval_type=split(eval_type) or DEFAULT_TYPES,
            k_values=ks,
            levels=levels,
            depths=blocks,
            controls=asked if any(name in CONTROLS for name in asked) else (*CONTROLS, *asked),
            batch_size=batch_size,
            device=device,
            output=output,
            overrides=overrides or (),
            console=True,
        )
    for each in results:
        print_table(each)
        print_blocks(each)
        if len(results) > 1:
            print()
    if len(results) > 1:
        print_transfer(results)


def _numbers(values: list[str] | None, option: str, example: str) -> list[int] | None:
    if values is None:
        return None
    numbers = []
    for part in split(values):
        try:
            numbers.append(int(part))
        except ValueError:
            raise UserError(f"{option}: {part!r} is not a whole number; for example {option} {example}") from None
    if not numbers:
        raise UserError(f"{option}: no value given; for example {option} {example}")
    return numbers
