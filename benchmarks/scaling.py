"""How training speed depends on batch, tokens, image size, levels, width, threads and processes.

    python -m benchmarks.scaling --axes batch levels threads --json scaling.json

All points of an axis are built first and then timed alternately, so that load on the machine affects them equally.
`over first` is the ratio of images per second to the first point of the axis; `share of peak` is relative to the
matrix-product peak, measured after each step with the point's number of threads. The points of the axis `processes` are
real runs under `torchrun` with one thread per process and a constant global batch; their speed is taken from the
records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.report import Cell, Rows, configuration, parser, show, write
from hjepa.benchmark.step import TimedStep
from hjepa.config import load_config
from hjepa.runtime.peak import matmul_peak

Point = tuple[Cell, list[str]]

AXES: dict[str, list[Point]] = {
    "batch": [(n, [f"data.batch_size={n}"]) for n in (16, 32, 64, 128, 256)],
    # Images of 32 pixels with smaller and smaller patches.
    "tokens": [((32 // p) ** 2, [f"model.encoder_type=vit_tiny_patch{p}_32"]) for p in (8, 4, 2)],
    "image size": [(n, [f"data.image_size={n}"]) for n in (16, 32, 48, 64)],
    "levels": [(n, [f"model.num_hierarchies={n}"]) for n in (1, 2, 3, 4)],
    "width": [
        (n, [f"model.embed_dim={n}", f"model.num_heads={n // 32}", f"model.predictor.embed_dim={n}"])
        for n in (96, 128, 192, 256, 384)
    ],
}
PROCESSES = (1, 2)


def curve(axis: str, points: list[Point], base: list[str], name: str, *, rounds: int, side: int | None) -> Rows:
    """Images per second at every point of an axis: medians over rounds in which the points alternate."""
    steps = [TimedStep(configuration(name, [*base, *overrides]), synthetic=True) for _, overrides in points]
    threads = [n if axis == "threads" and isinstance(n, int) else torch.get_num_threads() for n, _ in points]
    seconds: list[list[float]] = [[] for _ in points]
    peaks = [0.0] * len(points)
    for number in range(rounds + 1):
        for i, step in enumerate(steps):
            torch.set_num_threads(threads[i])
            taken = step()
            # The first round only warms up caches.
            if number:
                seconds[i].append(taken)
                peaks[i] = max(peaks[i], matmul_peak(step.device, step.dtype, side=side))
    paces = [step.images / median(found) for step, found in zip(steps, seconds, strict=True)]
    return [
        {
            "axis": axis,
            "value": points[i][0],
            "images/s": paces[i],
            "over first": paces[i] / paces[0],
            "GFLOP per image": step.cost.total / 1e9,
            "share of peak": paces[i] * step.cost.total / peaks[i],
        }
        for i, step in enumerate(steps)
    ]


def processes(numbers: tuple[int, ...], base: list[str], name: str, *, steps: int) -> Rows:
    """Images per second of whole runs with different numbers of processes and the same global batch."""
    whole = load_config(name).data.batch_size
    rows: Rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            keys = [
                *base,
                f"data.batch_size={whole // number}",
                f"training.max_steps={steps}",
                "logging.log_frequency=1",
                "logging.tensorboard.enabled=false",
                "evaluation.final=false",
                "training.num_threads=1",
                "device=cpu",
            ]
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), "-m", "hjepa"]
            subprocess.run(
                [sys.executable, *launcher, "train", "--config", name, "--output-dir", folder, *keys],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
                capture_output=True,
                text=True,
            )
            lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        paces = [r["images_per_second"] for r in map(json.loads, lines) if r["kind"] == "train"]
        # Leave out the first steps, which include one-time costs.
        pace = median(paces[len(paces) // 3 :])
        first = rows[0]["images/s"] if rows else pace
        assert isinstance(first, float)
        rows.append(
            {
                "axis": "processes",
                "value": number,
                "images/s": pace,
                "over first": pace / first,
                "GFLOP per image": None,
                "share of peak": None,
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    names = [*AXES, "threads", "processes"]
    options = parser(__doc__)
    options.add_argument("--config", default="quickstart", help="YAML file or preset that all points start from")
    options.add_argument("--axes", nargs="+", choices=names, default=names)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--override", action="append", default=[], metavar="section.key=value")
    given = options.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    own = torch.get_num_threads()
    base, rounds, side = list(given.override), given.rounds, None
    if given.short:
        base += ["data.batch_size=16", "model.depth=4", "device=cpu"]
        rounds, side = 1, 256
    rows: Rows = []
    for axis in given.axes:
        if axis == "processes":
            rows += processes((1,) if given.short else PROCESSES, base, given.config, steps=3 if given.short else 30)
            continue
        points: list[Point] = AXES[axis] if axis in AXES else [(n, []) for n in range(1, own + 1)]
        rows += curve(axis, points[:2] if given.short else points, base, given.config, rounds=rounds, side=side)
        torch.set_num_threads(own)
    show(rows)
    write(given.json, "scaling", {"scaling": rows, "rounds": rounds}, configuration(given.config, base))


if __name__ == "__main__":
    main()
