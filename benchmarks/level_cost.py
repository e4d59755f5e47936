"""What additional levels cost, relative to a flat model with the same encoder and a shared predictor.

    python -m benchmarks.level_cost --json level_cost.json

Steps of the flat model and of each other model alternate. The extra time is the median ratio of two neighbouring steps,
with quartiles; `extra FLOP` is the same ratio in counted FLOP.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.benchmark.step import TimedStep
from hjepa.config import Config


def measure(config: Config, levels: tuple[int, ...], *, rounds: int) -> dict[str, Any]:
    """Ratios of step times to those of the flat model.

    Args:
        config: the configuration; its number of levels is replaced.
        levels: numbers of levels to compare.
        rounds: timed pairs of steps for each, after one for warming up.
    """
    steps = {number: TimedStep(_with_levels(config, number), synthetic=True) for number in (1, *levels)}
    ratios: dict[int, list[float]] = {number: [] for number in levels}
    flat: list[float] = []
    for turn in range(rounds + 1):
        for number in levels:
            # The order alternates, so that cache effects of the first step favour neither model.
            pair = (1, number) if turn % 2 else (number, 1)
            seconds = {which: steps[which]() for which in pair}
            if turn:
                ratios[number].append(seconds[number] / seconds[1])
                flat.append(seconds[1])
    rows: Rows = []
    for number in levels:
        low, middle, high = torch.tensor(ratios[number]).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        rows.append(
            {
                "levels": number,
                "extra time, %": 100 * (middle - 1),
                "quartiles, %": f"{100 * (low - 1):.1f} to {100 * (high - 1):.1f}",
                "extra FLOP, %": 100 * (steps[number].cost.total / steps[1].cost.total - 1),
                "flat, ms": 1e3 * median(flat),
            }
        )
    return {"level_cost": rows, "rounds": rounds}


def _with_levels(config: Config, number: int) -> Config:
    keys = {"num_hierarchies": number, "levels": None}
    loss = config.loss.model_copy(update={"hierarchy_weights": None})
    return config.model_copy(update={"model": config.model.model_copy(update=keys), "loss": loss})


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="quickstart", help="YAML file or preset")
    options.add_argument("--levels", type=int, nargs="+", default=[2, 3, 4])
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = options.parse_args(arguments)
    keys: dict[str, Any] = {"training__num_threads": given.threads}
    if given.short:
        keys |= {"data__batch_size": 16, "model__depth": 4, "device": "cpu"}
    config = configuration(given.config, given.overrides, **keys)
    result = measure(config, (2, 3) if given.short else tuple(given.levels), rounds=1 if given.short else given.rounds)
    show(result["level_cost"])
    write(given.json, "level_cost", result, config)


if __name__ == "__main__":
    main()
