"""CPU time of a training step for every cell of a study, relative to the study's reference cell.

    python -m benchmarks.cell_cost docs/results/recipe/quickstart_cheaper_short.yaml training.use_amp=false --json cell_cost.json

The cells are timed alternately, in CPU seconds of this process, and the ratio is the median over rounds. CPU time is
used because other work on the machine lengthens wall-clock time; it affects CPU time only through caches and clock
rates, and those affect neighbouring steps equally.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.report import Rows, parser, show, write
from hjepa.benchmark.step import TimedStep
from hjepa.config import load_config, parse_override
from hjepa.research import load_study


def measure(study: str, overrides: dict[str, Any], *, rounds: int) -> Rows:
    """Milliseconds of CPU time per image and the ratio to the reference, by cell.

    Args:
        study: a YAML file or the name of a study that ships with hjepa.
        overrides: configuration keys applied to every cell.
        rounds: timed steps of each cell, after two for warming up.
    """
    _, asked = load_study(study)
    assert isinstance(asked.base, str)
    steps: dict[str, TimedStep] = {}
    for name, changes in asked.all_cells().items():
        config = load_config(asked.base, {"training.compile": False, **asked.overrides, **changes, **overrides})
        steps[name] = TimedStep(config, synthetic=True)
    reference = asked.reference or next(iter(steps))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            begun = time.process_time()
            step()
            if turn >= 2:
                seconds[name].append((time.process_time() - begun) / step.images)
    rows: Rows = []
    for name, step in steps.items():
        ratios = sorted(own / other for own, other in zip(seconds[name], seconds[reference], strict=True))
        rows.append(
            {
                "cell": name,
                "CPU ms per image": median(seconds[name]) * 1e3,
                "ratio": median(ratios),
                "lower quartile": ratios[len(ratios) // 4],
                "upper quartile": ratios[-1 - len(ratios) // 4],
                "GFLOP per image": step.cost.total / 1e9,
                "FLOP ratio": step.cost.total / steps[reference].cost.total,
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("study", help="YAML file, or the name of a study that ships with hjepa")
    options.add_argument("--rounds", type=int, default=25, help="timed steps of each cell")
    options.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads or 1)
    keys = dict(parse_override(text) for text in given.overrides) | {"training.num_threads": given.threads or 1}
    if given.short:
        keys |= {"data.batch_size": 16, "device": "cpu"}
    rows = measure(given.study, keys, rounds=1 if given.short else given.rounds)
    show(rows)
    write(given.json, "cell_cost", {"cell_cost": rows, "study": Path(given.study).stem, "overrides": keys})


if __name__ == "__main__":
    main()
