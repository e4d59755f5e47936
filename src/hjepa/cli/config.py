"""`hjepa config list|show|check|schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List presets, show and check configurations.")

Source = Annotated[str | None, typer.Argument(metavar="[FILE|PRESET]", help="YAML file or preset.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...")]


@app.command("list")
def list_presets() -> None:
    """List the presets."""
    from hjepa.config import preset_text, presets

    for name in presets():
        first = preset_text(name).splitlines()[0]
        typer.echo(f"{name:<16}{first.lstrip('# ')}")


@app.command()
def show(
    source: Source = None,
    overrides: Overrides = None,
    reference: Annotated[bool, typer.Option("--reference", help="Describe every key, as Markdown.")] = False,
) -> None:
    """Print a configuration with all keys (the defaults if no file or preset is given)."""
    from hjepa.config import dump_config, load_config
    from hjepa.config.reference import markdown

    if reference:
        typer.echo(markdown(), nl=False)
        return
    source, overrides = _arguments(source, overrides)
    typer.echo(dump_config(load_config(source, overrides)), nl=False)


@app.command()
def check(source: Source = None, overrides: Overrides = None) -> None:
    """Check a configuration, including masks, and print its tokens and FLOP."""
    from hjepa.config import load_config
    from hjepa.config.grid import by
    from hjepa.methods import HJepa, find_method
    from hjepa.methods.jepa import build_sampler
    from hjepa.runtime.device import resolve_device
    from hjepa.training.cost import counted_cost

    source, overrides = _arguments(source, overrides)
    config = load_config(source, overrides)
    method, geometry, processes = find_method(config.method), config.geometry(), 1
    # The sections of masks and loss describe the predictive methods only.
    counts = build_sampler(config).counts if issubclass(method, HJepa) else None
    if counts is None:
        method.check(config, processes)
    elif config.loss.type == "infonce":
        processes = -(-config.loss.candidate_images // config.data.batch_size)
    device = resolve_device(config.device).type if config.device == "auto" else None
    cost = counted_cost(config, config.data.channels or 3, processes=processes, device=device)
    seen = "" if counts is None else f", {counts.context} seen"
    typer.echo(f"ok: {geometry.num_tokens} tokens ({by(geometry.grid)}){seen}")
    for index, level in enumerate(geometry.levels):
        predicted = "" if counts is None else f", {counts.targets[index]} predicted"
        typer.echo(f"level {index}: after block {level.depth}, {by(geometry.level_grid(index))} cells{predicted}")
    if cost is None:
        typer.echo(f"FLOP are not counted by method {config.method}")
    else:
        parts = ", ".join(f"{name} {flop / 1e9:.3f}" for name, flop in cost.parts.items())
        typer.echo(f"{cost.total / 1e9:.3f} GFLOP per image and step: {parts}")
    if processes > 1:
        typer.echo(
            f"needs at least {processes} processes: infonce compares a prediction with {config.loss.candidate_images} images, "
            f"and data.batch_size is {config.data.batch_size}"
        )


@app.command()
def schema() -> None:
    """Print the JSON schema, for editors."""
    from hjepa.config.reference import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _arguments(source: str | None, overrides: list[str] | None) -> tuple[str | None, list[str]]:
    """Treat a first argument with `=` as an override of the defaults."""
    rest = list(overrides or ())
    if source is not None and "=" in source:
        return None, [source, *rest]
    return source, rest
