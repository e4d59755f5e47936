"""The page of speed: tables of the files of `benchmarks.all`."""

from __future__ import annotations

from typing import Any

from benchmarks.published.readings import Published, as_of_today
from benchmarks.published.text import table
from benchmarks.published.work import flop_per_image
from benchmarks.report import Cell, Rows, text

FOLDER = "speed"
# Files of full steps by `hjepa bench`, and the names of the rows.
STEPS = {
    "bench_plan": "`configs/cpu_cifar10.yaml`: ViT-Tiny/16, 224 px, batch 8 x 4",
    "bench_vit_tiny_patch4": "ViT-Tiny/4, 32 px, batch 64, two levels",
    "bench_quickstart": "preset `quickstart`",
}
# Files with rows: under which key, and the heading.
ROWS = {
    "step_stages_plan": ("stages", "Stages of a step, `configs/cpu_cifar10.yaml`"),
    "step_stages_vit_tiny_patch4": ("stages", "Stages of a step, ViT-Tiny/4 at 32 px"),
    "step_stages": ("stages", "Stages of a step, `quickstart`"),
    "level_cost": ("level_cost", "Cost of further levels over one level, `quickstart`"),
    "level_cost_vit_tiny_patch4": ("level_cost", "Cost of further levels over one level, ViT-Tiny/4 at 32 px"),
    "variants_plan": ("variants", "Precision and compilation, `configs/cpu_cifar10.yaml`, batch 8"),
    "variants_cifar10_cpu": ("variants", "Precision, preset `cifar10_cpu`"),
    "scaling": ("scaling", "Scaling"),
    "masks": ("masks", "Masks of a batch of 1,024 on a grid of 14 x 14, one core"),
    "attention": ("attention", "Attention of `cifar10_cpu`, one core: fused kernel and separate products"),
    "muon_share": ("muon_share", "Orthogonalising the matrices of `cifar10_cpu`, two processes"),
    "evaluation_speed": ("evaluation", "Evaluation of cached features"),
    "start_up": ("start_up", "Start-up"),
    "peak_memory": ("peak_memory", "Memory"),
    "data_workers": ("data_workers", "Data workers, `configs/cpu_cifar10.yaml`, batch 8"),
}

# Labels in the files, and how the page words them.
SHOWN = {
    "over first": "relative to first",
    "pays after, steps": "break-even after, steps",
    "way": "variant",
    "moving average": "EMA",
    "written out, float32": "products, float32",
    "written out, bf16": "products, bf16",
    "as small as will do": "reduced",
    "whole": "full size",
    "each does all": "each process does all",
    "divided": "divided between processes",
    "over an empty interpreter, s": "minus empty interpreter, s",
    "over import torch, s": "minus import torch, s",
    "decoded/s and worker": "decoded/s per worker",
    "extra time, %": "additional time, %",
    "extra FLOP, %": "additional FLOP, %",
    "flat, ms": "one level, ms",
}


def everything(published: Published) -> str:
    """The tables of all files that exist."""
    parts = [steps(published)]
    for name, (key, heading) in ROWS.items():
        if (published.root / FOLDER / f"{name}.json").is_file():
            tree = published.json(f"{FOLDER}/{name}.json")
            rows = _recounted(tree) if key == "variants" else tree[key]
            parts.append(f"## {heading}\n\n{_conditions(tree, name)}\n\n{cells(rows)}")
    return "\n\n".join(parts)


def steps(published: Published) -> str:
    """Full training steps; their FLOP are counted by the current code."""
    rows: Rows = []
    for name, label in STEPS.items():
        if not (published.root / FOLDER / f"{name}.json").is_file():
            continue
        tree = published.json(f"{FOLDER}/{name}.json")
        tokens = tree["tokens"]
        work = _work(tree)
        row: dict[str, Cell] = {
            "full step": f"{label} ({_conditions(tree, name)})",
            "images/s": tree["images_per_second"],
            "GFLOP per image": work / 1e9,
            "tokens: target, context, queries, predictor": ", ".join(
                str(tokens[part]) for part in ("target", "context", "queries", "predictor")
            ),
            "GFLOP/s of peak": f"{tree['images_per_second'] * work / 1e9:.0f} of {tree['peak_flops'] / 1e9:.0f}",
            "share of peak, %": 100 * tree["images_per_second"] * work / tree["peak_flops"],
        }
        rows.append(row)
    return cells(rows) if rows else ""


def before(published: Published) -> str:
    """An earlier measurement of `configs/cpu_cifar10.yaml`, on another machine."""
    tree = published.json(f"{FOLDER}/bench_plan_before.json")
    return (
        "Before the predictor's last block computed only the queries, `configs/cpu_cifar10.yaml` ran at "
        f"{text(tree['images_per_second'])} images/s on another machine, with {text(tree['flop_per_image'] / 1e9)} GFLOP per "
        f"image as counted then ([data]({FOLDER}/bench_plan_before.json)). This was {100 * tree['peak_share']:.0f} % of the peak "
        "measured in the same process."
    )


def cells(rows: Rows) -> str:
    """Rows with the same keys as a table; numbers are right-aligned."""
    names = list(rows[0])
    left = [i for i, name in enumerate(names) if not any(isinstance(row[name], int | float) for row in rows)]
    header = [SHOWN.get(name, name) for name in names]
    lines = [[text(row[name]) for name in names] for row in rows]
    return table(header, [[SHOWN.get(cell, cell) for cell in line] for line in lines], left)


def _recounted(tree: dict[str, Any]) -> Rows:
    """Variants with their FLOP counted by the current code."""
    work = _work(tree)
    rows = []
    for row in tree["variants"]:
        peak = float(row["GFLOP/s of peak"].split(" of ")[1])
        pace = row["images/s"] * work / 1e9
        rows.append(row | {"GFLOP/s of peak": f"{pace:.0f} of {peak:.0f}", "share of peak": pace / peak})
    return rows


def _work(tree: dict[str, Any]) -> float:
    config = as_of_today(tree["config"])
    assert config is not None
    return flop_per_image(config)


def _conditions(tree: dict[str, Any], name: str) -> str:
    return f"{tree['environment']['device_name']}, {tree.get('threads')} threads; [data]({FOLDER}/{name}.json)"
