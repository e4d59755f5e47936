"""Run every speed measurement, one after the other, on an otherwise idle machine.

    python -m benchmarks.all --json-dir docs/results/speed

Each measurement runs in its own process, with byte code cached as on a user's machine, prints its table and writes
`<name>.json`. The whole set takes about a quarter of an hour on two cores; the expected minutes of each are shown.
`benchmarks.gpu` runs only if there is a GPU. `python -m benchmarks.tables` makes the tables in the documentation from
the files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

PLAN = "configs/cpu_cifar10.yaml"
VIT_TINY = [
    "model.embed_dim=192",
    "model.depth=12",
    "model.num_heads=3",
    "model.num_hierarchies=2",
    "model.predictor.embed_dim=192",
    "model.predictor.num_heads=3",
    "data.batch_size=64",
]


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        module: the module to run.
        arguments: arguments of a full measurement.
        minutes: expected duration on two cores.
        short: arguments with `--short`.
        gpu: whether it needs a GPU.
    """

    module: str
    arguments: list[str] = field(default_factory=list)
    minutes: float = 0.5
    short: list[str] = field(default_factory=lambda: ["--short"])
    gpu: bool = False


def _bench(config: str, *overrides: str) -> Task:
    keys = ["--config", config, "--synthetic", *overrides]
    tiny = [
        *keys,
        "--seconds",
        "0.1",
        "data.batch_size=16",
        "model.depth=3",
        "training.accumulation_steps=1",
        "device=cpu",
    ]
    return Task("hjepa", ["bench", *keys, "--seconds", "20"], 0.7, ["bench", *tiny])


TASKS: dict[str, Task] = {
    "masks": Task("benchmarks.masks", minutes=0.1),
    "attention": Task("benchmarks.attention", minutes=0.3),
    "muon_share": Task("benchmarks.muon_share", minutes=0.4),
    "start_up": Task("benchmarks.start_up", ["--rounds", "3"], 0.8),
    "bench_plan": _bench(PLAN, "data.num_workers=0"),
    "bench_vit_tiny_patch4": _bench("quickstart", *VIT_TINY),
    "bench_quickstart": _bench("quickstart"),
    "step_stages_plan": Task("benchmarks.step_stages", ["--config", PLAN, "--rounds", "6", "data.num_workers=0"], 0.7),
    "step_stages_vit_tiny_patch4": Task("benchmarks.step_stages", ["--rounds", "12", *VIT_TINY], 0.6),
    "step_stages": Task("benchmarks.step_stages", ["--rounds", "16"], 0.5),
    "level_cost": Task("benchmarks.level_cost", ["--levels", "2", "--rounds", "20"], 0.6),
    "level_cost_vit_tiny_patch4": Task("benchmarks.level_cost", ["--levels", "2", "--rounds", "16", *VIT_TINY], 0.8),
    "scaling": Task("benchmarks.scaling", ["--rounds", "3"], 3.5, ["--short", "--axes", "batch", "levels", "threads"]),
    "evaluation_speed": Task("benchmarks.evaluation_speed", minutes=0.4),
    "peak_memory": Task("benchmarks.peak_memory", minutes=0.8),
    "data_workers": Task(
        "benchmarks.data_workers",
        ["--workers", "1", "2", "--files", "100", "training.accumulation_steps=1"],
        1.5,
        ["--short", "--config", "quickstart"],
    ),
    "variants_plan": Task(
        "benchmarks.variants",
        ["--config", PLAN, "--rounds", "8", "data.num_workers=0", "training.accumulation_steps=1"],
        2.0,
        ["--short", "--variants", "float32", "bfloat16"],
    ),
    "variants_cifar10_cpu": Task(
        "benchmarks.variants",
        ["--config", "cifar10_cpu", "--rounds", "8", "--variants", "float32", "bfloat16"],
        0.8,
        ["--short", "--variants", "float32", "bfloat16"],
    ),
    "gpu": Task("benchmarks.gpu", minutes=8, gpu=True),
}


def run(name: str, task: Task, *, short: bool, json_dir: Path | None, variables: dict[str, str]) -> bool:
    """Run one measurement; returns whether it succeeded."""
    arguments = list(task.short if short else task.arguments)
    if json_dir is not None:
        # `--json` follows the subcommand, if there is one.
        verb = 1 if task.module == "hjepa" else 0
        arguments[verb:verb] = ["--json", str(json_dir / f"{name}.json")]
    print(f"\n== {name}: python -m {task.module} {' '.join(arguments)}  ({task.minutes:g} min)", flush=True)
    started = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", task.module, *arguments], env=variables, check=False).returncode
    print(f"-- {name}: {time.perf_counter() - started:.0f} s" + (f", FAILED with {code}" if code else ""), flush=True)
    return code == 0


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--json-dir", type=Path, metavar="FOLDER", help="write one JSON file per measurement to this folder"
    )
    options.add_argument(
        "--short", action="store_true", help="tiny sizes, to check that everything runs; do not use the numbers"
    )
    options.add_argument("--only", nargs="+", choices=list(TASKS), help="run only these")
    given = options.parse_args(arguments)
    wanted = given.only or [name for name, task in TASKS.items() if not task.gpu or torch.cuda.is_available()]
    if given.json_dir is not None:
        given.json_dir.mkdir(parents=True, exist_ok=True)
    minutes = sum(TASKS[name].minutes for name in wanted)
    print(f"{len(wanted)} measurements, about {minutes:.0f} minutes on two idle cores")
    variables = dict(os.environ)
    with tempfile.TemporaryDirectory() as byte_code:
        if not given.short:
            variables.pop("PYTHONDONTWRITEBYTECODE", None)
            variables["PYTHONPYCACHEPREFIX"] = byte_code
            # Compile the lazily imported modules to byte code now, so that no measurement includes it.
            late = "import torch._dynamo, torch._inductor, hjepa.training, hjepa.evaluation"
            subprocess.run([sys.executable, "-c", late], env=variables, check=True)
        done = [
            run(name, TASKS[name], short=given.short, json_dir=given.json_dir, variables=variables) for name in wanted
        ]
    print(f"\n{sum(done)} of {len(done)} done")
    if not all(done):
        sys.exit(1)


if __name__ == "__main__":
    main()
