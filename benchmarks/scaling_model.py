"""Estimate what training costs on 1 to 256 GPUs: memory, communication and time of a step, GPU-hours of a run.

    python -m benchmarks.scaling_model
    python -m benchmarks.scaling_model --json docs/results/scaling_model.json

Prints the tables of docs/scaling.md, which explains them. Nothing is measured here: `benchmarks.scaling_checks`
compares the formulas with built models, a real step and real processes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.scaling_formulas import (
    GLOBAL_BATCH,
    H100,
    H200,
    MODELS,
    PRESET,
    RUNS,
    SHARE,
    SHARES,
    USABLE,
    WORLDS,
    Machine,
    Size,
    ddp_state,
    describe,
    fsdp_state,
    gpu_hours,
    images_at_once,
    images_to_hide,
    largest_with_ddp,
    step_plan,
)
from hjepa.config import load_config
from hjepa.runtime.files import write_atomically


def sizes() -> list[Size]:
    """The figures of all models with the preset's levels, predictor and masks."""
    return [describe(label, load_config(PRESET, {"model.encoder_type": name})) for label, name in MODELS.items()]


def tables(all_sizes: Sequence[Size]) -> dict[str, list[str]]:
    """The tables of docs/scaling.md as Markdown lines, by name."""
    return {
        "models": _models(all_sizes),
        "steps": _steps(all_sizes, H100),
        "limits": _limits(all_sizes),
        "hours": _hours(all_sizes),
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _models(all_sizes: Sequence[Size]) -> list[str]:
    rows = []
    for size in all_sizes:
        cost = size.cost
        rows.append(
            [
                size.name,
                f"{size.encoder / 1e6:.1f}",
                f"{size.predictor / 1e6:.1f}",
                f"{cost.tokens['target']} / {cost.tokens['context']} / {cost.tokens['queries']}",
                f"{cost.target / 1e9:.1f}",
                f"{cost.context / 1e9:.1f}",
                f"{cost.predictor / 1e9:.1f}",
                f"{cost.total / 1e9:.1f}",
                f"{size.activations / 1e6:.1f}",
            ]
        )
    return _table(
        [
            "model",
            "encoder, M",
            "predictor, M",
            "tokens: all / seen / asked",
            "target, GFLOP",
            "context, GFLOP",
            "predictor, GFLOP",
            "image, GFLOP",
            "kept per image, MB",
        ],
        rows,
    )


def _steps(all_sizes: Sequence[Size], machine: Machine) -> list[str]:
    rows = []
    for size in all_sizes:
        for world in WORLDS:
            plan = step_plan(size, machine, world)
            several = world > 1
            rows.append(
                [
                    size.name,
                    str(world),
                    f"{plan['images']} x {plan['passes']}",
                    _gb(plan["state"]),
                    _gb(plan["sharded"]) if several else "-",
                    _gb(plan["activations"]),
                    _gb(plan["volume"]) if several else "-",
                    _gb(plan["sharded volume"]) if several else "-",
                    f"{1e3 * plan['compute']:.0f}",
                    f"{1e3 * plan['exchange']:.1f}" if several else "-",
                    f"{1e3 * plan['sharded exchange']:.1f}" if several else "-",
                ]
            )
    return _table(
        [
            "model",
            "GPUs",
            "images x passes",
            "state DDP, GB",
            "state FSDP, GB",
            "kept, GB",
            "sent DDP, GB",
            "sent FSDP, GB",
            "compute, ms",
            "exchange DDP, ms",
            "exchange FSDP, ms",
        ],
        rows,
    )


def _limits(all_sizes: Sequence[Size]) -> list[str]:
    rows = []
    for size in all_sizes:
        cells = [size.name]
        for machine in (H100, H200):
            with_ddp = images_at_once(size, machine, ddp_state(size))
            with_fsdp = images_at_once(size, machine, fsdp_state(size, 8))
            cells += [f"{ddp_state(size) / machine.memory:.0%}", str(with_ddp), str(with_fsdp)]
        hidden = [images_to_hide(size, H100, bandwidth) for bandwidth in (H100.inside, H100.between)]
        rows.append([*cells, *(f"{images:.0f}" for images in hidden)])
    return _table(
        [
            "model",
            "H100: state DDP",
            "images DDP",
            "images FSDP, 8 GPUs",
            "H200: state DDP",
            "images DDP",
            "images FSDP, 8 GPUs",
            "hidden inside from",
            "hidden between from",
        ],
        rows,
    )


def _hours(all_sizes: Sequence[Size]) -> list[str]:
    rows = []
    for run, (images, epochs) in RUNS.items():
        for size in all_sizes:
            hours = [f"{gpu_hours(size, images, epochs, share):,.0f}" for share in SHARES]
            rows.append([run, size.name, f"{images * epochs * size.cost.total:.2g}", *hours])
    return _table(["run", "model", "FLOP", *(f"{share:.0%} of peak" for share in SHARES)], rows)


def _gb(value: float) -> str:
    return f"{value / 1e9:.2f}" if value < 10e9 else f"{value / 1e9:.1f}"


def figures(all_sizes: Sequence[Size]) -> dict[str, Any]:
    """Everything in the tables, unrounded."""
    machines = (H100, H200)
    return {
        "benchmark": "scaling_model",
        "preset": PRESET,
        "global_batch": GLOBAL_BATCH,
        "assumed": {"machines": [asdict(m) for m in machines], "usable_memory": USABLE, "share_of_peak": SHARE},
        "models": [_figures(size) for size in all_sizes],
        "steps": [step_plan(s, m, w) | {"machine": m.name} for m in machines for s in all_sizes for w in WORLDS],
        "gpu_hours": [
            {"run": run, "model": size.name, "share_of_peak": share, "hours": gpu_hours(size, images, epochs, share)}
            for run, (images, epochs) in RUNS.items()
            for size in all_sizes
            for share in SHARES
        ],
        "images_to_hide_the_exchange": {
            size.name: {
                "inside": images_to_hide(size, H100, H100.inside),
                "between": images_to_hide(size, H100, H100.between),
            }
            for size in all_sizes
        },
        "parameters_at_half_of_memory_with_ddp": {m.name: largest_with_ddp(m) for m in machines},
    }


def _figures(size: Size) -> dict[str, Any]:
    """A model's figures for the JSON file, without the matrix shapes, which only Muon needs."""
    tree = asdict(size) | {"flop_per_image": size.cost.total}
    del tree["cost"]["hidden"]
    return tree


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    given = parse.parse_args(arguments)
    found = sizes()
    for name, lines in tables(found).items():
        print(f"<!-- {name} -->", *lines, "", sep="\n")
    if given.json:
        write_atomically(given.json, json.dumps(figures(found), indent=2) + "\n")
        print(f"wrote {given.json}")


if __name__ == "__main__":
    main()
