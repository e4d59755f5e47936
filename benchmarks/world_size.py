"""Train the same tiny run with different numbers of processes and compare the results with those of one process.

The runs use DDP and FSDP with two and four processes; some change the number of processes at a checkpoint in the middle
of an epoch. Compared are weights, target encoder, optimiser moments, the loss of every step, and the images of every
step (order, crops, positions). Only the order of summation differs, so the differences are rounding errors.

    python -m benchmarks.world_size --json docs/results/distribution_world_size.json
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import processes
from benchmarks.report import Rows, parser, show, write
from hjepa.config import load_config
from hjepa.data import TrainLoader, build_dataset

# In the middle of an epoch, which has eight steps.
STOP = 7
# Each part of a run: processes, strategy, and the step at which it stops; None trains to the end.
RUNS: dict[str, list[tuple[int, str, int | None]]] = {
    "1 process": [(1, "ddp", None)],
    "2 processes, DDP": [(2, "ddp", None)],
    "4 processes, DDP": [(4, "ddp", None)],
    "2 processes, FSDP": [(2, "fsdp", None)],
    "4 processes, FSDP": [(4, "fsdp", None)],
    "7 steps with 2 FSDP, then 1": [(2, "fsdp", STOP), (1, "ddp", None)],
    "7 steps with 2 FSDP, then 4 FSDP": [(2, "fsdp", STOP), (4, "fsdp", None)],
    "7 steps with 1, then 2 FSDP": [(1, "ddp", STOP), (2, "fsdp", None)],
}
SHORT = ("1 process", "7 steps with 2 FSDP, then 1")


def train(folder: Path, number: int, strategy: str, stop: int | None) -> str:
    """Start or resume training up to a step. Returns the log line about the processes, if there are several."""
    options = ["--resume", "auto", *([] if stop is None else ["--max-steps", str(stop)])]
    command = processes.train_command(folder, processes.keys(number, strategy), *options)
    start = [sys.executable] if number == 1 else processes.torchrun(number, "--standalone")
    result = subprocess.run(
        start + command, env=processes.surroundings(), capture_output=True, text=True, timeout=600, check=False
    )
    if result.returncode:
        raise SystemExit(f"{number} processes, {strategy}: {result.stdout[-2000:]}{result.stderr[-4000:]}")
    lines = [line for line in (folder / "training.log").read_text().splitlines() if "images per update" in line]
    return lines[-1].partition(": ")[2] if lines and number > 1 else ""


def seen(number: int, first: int, last: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Per step, the indices [G] and the crops [G, C, H, W] of all processes, by position in the global batch."""
    config = load_config({}, processes.keys(number, "ddp"))
    dataset = build_dataset(config.data, "train", seed=config.seed)
    loaders = [
        TrainLoader(
            dataset,
            config.data,
            config.geometry().height_width,
            mean=(0.5,) * dataset.channels,
            std=(0.25,) * dataset.channels,
            seed=config.seed,
            rank=rank,
            world_size=number,
            device=torch.device("cpu"),
        ).batches(first, last)
        for rank in range(number)
    ]
    for parts in zip(*loaders, strict=True):
        yield torch.cat([part.indices for part in parts]), torch.cat([part.images for part in parts])


def same_images(number: int, steps: int) -> bool:
    """Whether several processes load the same images and crops as one, at every position of every step."""
    pairs = zip(seen(number, 0, steps), seen(1, 0, steps), strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def measure(names: list[str], scratch: Path) -> dict[str, Any]:
    """Train all runs, and compare each with the first."""
    rows: Rows = []
    first = scratch / "0"
    told: dict[str, str] = {}
    for index, name in enumerate(names):
        folder = scratch / str(index)
        for leg in RUNS[name]:
            line = train(folder, *leg)
            if line:
                told[name] = line
        found = processes.compare(folder, first)
        numbers = {leg[0] for leg in RUNS[name]}
        found["same images"] = "yes" if all(same_images(number, found["step"]) for number in numbers) else "no"
        del found["bit-equal"]
        rows.append({"run": name, **found})
        print(f"{name}: done", flush=True)
    return {"runs": rows, "said": told}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    given = parser(__doc__)
    options = given.parse_args(arguments)
    torch.set_num_threads(options.threads or 1)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(list(SHORT if options.short else RUNS), Path(scratch))
    print("largest absolute difference from one process")
    show(figures["runs"])
    write(options.json, "world_size", figures, load_config({}, processes.keys(1, "ddp")))


if __name__ == "__main__":
    main()
