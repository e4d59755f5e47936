"""`hjepa bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hjepa.benchmark.step import StepBenchmark


def bench(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...")] = None,
    config: Annotated[str, typer.Option(help="YAML file or preset.")] = "quickstart",
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:<n> or mps.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of the measurement.")] = 20.0,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Use random images instead of the data set.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """Measure images per second of a full training step, and its share of the machine's peak for matrix products.

    Without a share of the peak if the method does not count its FLOP.
    """
    from hjepa.config import load_config, parse_override

    flags = {} if device is None else {"device": device}
    settings = load_config(config, {**dict(parse_override(text) for text in overrides or ()), **flags})

    from hjepa.benchmark.step import benchmark_step
    from hjepa.runtime.device import resolve_device
    from hjepa.runtime.environment import environment
    from hjepa.runtime.files import write_atomically
    from hjepa.training.precision import settle_precision

    settings = settle_precision(settings, resolve_device(settings.device))
    result = benchmark_step(settings, seconds=seconds, synthetic=synthetic)
    rows = [
        ("images/s", f"{result.images_per_second:.1f}"),
        *_work(result, settings.method),
        ("waiting for data", f"{result.data_wait:.1%}"),
        ("batch", f"{result.batch} x {result.accumulation}"),
        (
            "conditions",
            f"{result.device}, {result.threads} threads, {result.precision}, {'compiled' if result.compiled else 'eager'}, {result.data}, {result.steps} steps",
        ),
    ]
    for name, value in rows:
        typer.echo(f"{name:<22}{value}")
    if json_file is not None:
        about = environment(settings, resolve_device(settings.device), 1)
        write_atomically(
            json_file,
            json.dumps({**result.as_dict(), "environment": about, "config": settings.model_dump(mode="json")}, indent=2)
            + "\n",
        )
        typer.echo(f"wrote {json_file}")


def _work(result: StepBenchmark, method: str) -> list[tuple[str, str]]:
    """The rows on FLOP; one that says so if the method does not count them."""
    peak = f"{result.peak_flops / 1e9:.1f} GFLOP/s"
    if result.flop_per_image is None or result.achieved_flops is None or result.peak_share is None:
        return [("FLOP per image", f"not counted by method {method}"), ("matrix product peak", peak)]
    return [
        ("FLOP per image", f"{result.flop_per_image / 1e9:.2f} G"),
        *((f"  {part}", f"{flop / 1e9:.2f} G") for part, flop in result.flop_share.items()),
        ("tokens per image", ", ".join(f"{part} {count}" for part, count in result.tokens.items())),
        ("achieved", f"{result.achieved_flops / 1e9:.1f} GFLOP/s"),
        ("matrix product peak", peak),
        ("share of peak", f"{result.peak_share:.1%}"),
    ]
