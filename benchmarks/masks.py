"""How long drawing the masks takes on one core.

    python -m benchmarks.masks --json masks.json

Every strategy draws masks for a batch of 1,024 on a grid of 14 x 14 tokens, with one level and with two.
"""

from __future__ import annotations

import time
from itertools import product
from statistics import median
from typing import Any

import torch

from benchmarks.report import Rows, parser, show, write
from hjepa.config import MaskingConfig
from hjepa.masking import MaskSampler

STRATEGIES = ("multiblock", "hierarchical", "random")
LEVELS: dict[str, tuple[int, ...]] = {"one level": (1,), "two grids": (1, 2)}


def measure(*, batch: int, grid: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Median milliseconds per batch; strategies alternate, so that other load on the machine affects all of them."""
    cases = [
        (strategy, levels, MaskSampler(MaskingConfig(strategy=strategy), grid, strides))
        for strategy, (levels, strides) in product(STRATEGIES, LEVELS.items())
    ]
    seconds: dict[tuple[str, str], list[float]] = {}
    for step in range(rounds + 1):
        for strategy, levels, sampler in cases:
            started = time.perf_counter()
            masks = sampler(step, batch)
            # The first round only warms up caches.
            if step:
                seconds.setdefault((strategy, levels), []).append(time.perf_counter() - started)
            assert len(masks.context) == batch
    rows: Rows = [
        {
            "strategy": strategy,
            "levels": levels,
            "context": sampler.counts.context,
            "targets": "/".join(map(str, sampler.counts.targets)),
            "ms per batch": median(seconds[strategy, levels]) * 1e3,
            "us per image": median(seconds[strategy, levels]) / batch * 1e6,
        }
        for strategy, levels, sampler in cases
    ]
    return {"masks": rows, "batch": batch, "grid": list(grid), "rounds": rounds}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=30)
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads or 1)
    result = measure(batch=64 if given.short else given.batch, grid=(14, 14), rounds=1 if given.short else given.rounds)
    show(result["masks"])
    write(given.json, "masks", result)


if __name__ == "__main__":
    main()
