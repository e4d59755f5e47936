"""Tables of the documentation from the files of `benchmarks.all`, so that no figure is copied by hand.

    python -m benchmarks.tables --json-dir docs/results/speed --document docs/results/README.md

What stands between the two marks of the document is replaced. A test compares the document with its files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Cell, Rows, text

BEGIN = "<!-- made by `python -m benchmarks.tables` -->"
END = "<!-- end of what was made -->"

# Files of whole steps by `hjepa bench`, and what the rows are called.
STEPS = {
    "bench_plan": "the plan's configuration: ViT-Tiny/16, 224 px, batch 8 x 4",
    "bench_vit_tiny_patch4": "ViT-Tiny/4, 32 px, batch 64, two levels",
    "bench_quickstart": "preset `quickstart`",
}
# Files with rows: under which key, and the heading.
ROWS = {
    "step_stages_plan": ("stages", "Stages of a step, the plan's configuration"),
    "step_stages_vit_tiny_patch4": ("stages", "Stages of a step, ViT-Tiny/4 at 32 px"),
    "step_stages": ("stages", "Stages of a step, `quickstart`"),
    "level_cost": ("level_cost", "Further levels over flat, `quickstart`"),
    "level_cost_vit_tiny_patch4": ("level_cost", "Further levels over flat, ViT-Tiny/4 at 32 px"),
    "variants_plan": ("variants", "Precision and compilation, the plan's configuration, batch 8"),
    "variants_cifar10_cpu": ("variants", "Precision, preset `cifar10_cpu`"),
    "scaling": ("scaling", "Scaling"),
    "masks": ("masks", "Masks of a batch of 1,024 on a grid of 14 x 14, one core"),
    "attention": ("attention", "Attention of `cifar10_cpu`, one core: fused and written out"),
    "muon_share": ("muon_share", "Orthogonalising the matrices of `cifar10_cpu`, two processes"),
    "evaluation_speed": ("evaluation", "Evaluation of cached features"),
    "start_up": ("start_up", "Start-up"),
    "peak_memory": ("peak_memory", "Memory"),
    "data_workers": ("data_workers", "Data workers, the plan's configuration, batch 8"),
}


def made(json_dir: Path) -> str:
    """All tables of the files that are there, as Markdown."""
    parts = [_steps(json_dir)]
    for name, (key, heading) in ROWS.items():
        file = json_dir / f"{name}.json"
        if file.is_file():
            tree = json.loads(file.read_text(encoding="utf-8"))
            parts.append(f"**{heading}** ({_conditions(tree, json_dir, name)})\n\n{markdown(tree[key])}")
    return "\n\n".join(part for part in parts if part)


def markdown(rows: Rows) -> str:
    """Rows with the same keys as a Markdown table; numbers stand right."""
    names = list(rows[0])
    numbers = [any(isinstance(row[name], int | float) for row in rows) for name in names]
    lines: list[Sequence[str]] = [names, ["---:" if number else "---" for number in numbers]]
    lines += [[text(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replaced(document: str, tables: str) -> str:
    """The document with other tables between its marks."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def _steps(json_dir: Path) -> str:
    rows: Rows = []
    for name, label in STEPS.items():
        file = json_dir / f"{name}.json"
        if not file.is_file():
            continue
        tree = json.loads(file.read_text(encoding="utf-8"))
        tokens = tree["tokens"]
        row: dict[str, Cell] = {
            "whole step": f"{label} ({_conditions(tree, json_dir, name)})",
            "images/s": tree["images_per_second"],
            "GFLOP per image": tree["flop_per_image"] / 1e9,
            "tokens: target, context, queries, predictor": ", ".join(
                str(tokens[part]) for part in ("target", "context", "queries", "predictor")
            ),
            "GFLOP/s of peak": f"{tree['achieved_flops'] / 1e9:.0f} of {tree['peak_flops'] / 1e9:.0f}",
            "share of peak, %": 100 * tree["peak_share"],
        }
        rows.append(row)
    return markdown(rows) if rows else ""


def _conditions(tree: dict[str, Any], json_dir: Path, name: str) -> str:
    about = tree["environment"]
    threads = tree.get("threads")
    return f"{about['device_name']}, {threads} threads; [figures]({json_dir.name}/{name}.json)"


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json-dir", type=Path, default=Path("docs/results/speed"))
    options.add_argument("--document", type=Path, default=Path("docs/results/README.md"))
    given = options.parse_args(arguments)
    document = given.document.read_text(encoding="utf-8")
    given.document.write_text(replaced(document, made(given.json_dir)), encoding="utf-8")
    print(f"wrote {given.document}")


if __name__ == "__main__":
    main()
