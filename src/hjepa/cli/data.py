"""`hjepa data list|check|preview|shard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import IntegrityReport

app = typer.Typer(no_args_is_help=True, help="List, check, preview and shard data sets.")

_SHOWN = 20

Dataset = Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="data.dataset")]
DataPath = Annotated[Path | None, typer.Option("--data-path", metavar="PATH", help="data.data_path")]
Source = Annotated[str | None, typer.Option("--config", metavar="FILE|PRESET", help="Start from this configuration.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...")]


@app.command("list")
def list_datasets() -> None:
    """List the supported data sets with sizes, origin and licence."""
    from hjepa.config.catalogue import CATALOGUE, Entry

    rows = [tuple(column.replace("pixels", "size") for column in Entry._fields), *CATALOGUE]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def check(
    dataset: Dataset = None, data_path: DataPath = None, config: Source = None, overrides: Overrides = None
) -> None:
    """Read every image once and report counts, sizes, classes, bad files, and images in both train and test.

    Bad files are listed and the exit code is 0; with data.bad_images=stop, the first ones end the check with exit code 2.
    """
    from hjepa.data import check_dataset

    chosen = _load(config, dataset, data_path, overrides)
    for line in _report(check_dataset(chosen.data, chosen.seed)):
        typer.echo(line)


@app.command()
def preview(
    output: Annotated[Path, typer.Option("--output", metavar="FILE.png", help="PNG file to write.")],
    dataset: Dataset = None,
    data_path: DataPath = None,
    config: Source = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=64, help="Number of images.")] = 8,
    crops: Annotated[int, typer.Option("--crops", min=1, max=32, help="Augmented crops per image.")] = 6,
    overrides: Overrides = None,
) -> None:
    """Write a contact sheet of training images and augmented crops as the model sees them."""
    from hjepa.data import build_dataset
    from hjepa.data.preview import contact_sheet, save_png
    from hjepa.errors import UserError

    chosen = _load(config, dataset, data_path, overrides)
    if output.suffix.lower() != ".png":
        raise UserError(f"--output: {output} does not end in .png; give a name that does")
    # Fail before reading the data set, which may take a while.
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output: {output.parent} cannot be created ({error.strerror}); choose another folder"
        ) from None
    train = build_dataset(chosen.data, "train", seed=chosen.seed)
    sheet = contact_sheet(train, chosen.data, chosen.geometry().height_width, seed=chosen.seed, rows=rows, crops=crops)
    try:
        save_png(sheet, output)
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written ({error.strerror}); choose another file") from None
    typer.echo(f"{output}: {min(rows, len(train))} images, each followed by {crops} crops")


@app.command()
def shard(
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Folder to write; must be empty or new.")],
    dataset: Dataset = None,
    data_path: DataPath = None,
    config: Source = None,
    samples_per_shard: Annotated[
        int, typer.Option("--samples-per-shard", min=1, help="Images per shard; the last may have fewer.")
    ] = 1000,
    overrides: Overrides = None,
) -> None:
    """Write a data set as WebDataset shards: .tar files in train/ and test/, listed in shards.json."""
    from hjepa.data.shards.write import write_shards
    from hjepa.data.wording import quantity

    chosen = _load(config, dataset, data_path, overrides)
    written = write_shards(chosen.data, output, samples_per_shard=samples_per_shard, seed=chosen.seed)
    for split, (images, shards) in written.items():
        typer.echo(f"{output / split}: {quantity(images, 'image')} in {quantity(shards, 'shard')}")
    typer.echo(f"use them with data.dataset=webdataset data.data_path={output}")


def _load(source: str | None, dataset: str | None, data_path: Path | None, overrides: list[str] | None) -> Config:
    from hjepa.config import load_config, parse_override

    values = dict(parse_override(text) for text in overrides or ())
    if dataset is not None:
        values["data.dataset"] = dataset
    if data_path is not None:
        values["data.data_path"] = str(data_path)
    return load_config(source, values)


def _report(report: IntegrityReport) -> list[str]:
    from hjepa.data.wording import quantity

    lines = [f"{report.description}: {quantity(report.channels, 'channel')}"]
    lines += [f"note: {note}" for note in report.notes]
    for name, split in report.splits.items():
        lines.append(f"{name}: {quantity(split.images, 'image')}")
        sizes = [f"{height}x{width} ({count})" for (height, width), count in split.sizes.items()]
        lines.append(f"  sizes: {', '.join(sizes[:5])}{f' and {len(sizes) - 5} more' if len(sizes) > 5 else ''}")
        lines.append(f"  types: {', '.join(f'{kind} ({count})' for kind, count in split.types.items())}")
        if split.converted:
            lines.append(f"  converted: {'; '.join(f'{what} ({count})' for what, count in split.converted.items())}")
        if split.classes:
            classes = [f"{label} ({count})" for label, count in split.classes.items()]
            more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
            lines.append(f"  classes: {', '.join(classes[:_SHOWN])}{more}")
        if split.unlabelled:
            lines.append(f"  without label: {split.unlabelled}")
    if report.missing_test is not None:
        lines.append(f"test: none ({report.missing_test})")
    lines.append(f"bad files: {len(report.bad_files)}")
    lines += [f"  {bad.path}: {bad.reason}" for bad in report.bad_files]
    lines.append(f"in both train and test: {len(report.duplicates)}")
    lines += [f"  {train} = {test}" for train, test in report.duplicates[:_SHOWN]]
    if len(report.duplicates) > _SHOWN:
        lines.append(f"  and {len(report.duplicates) - _SHOWN} more")
    return lines
