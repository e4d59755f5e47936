"""FLOP of a training step, counted by the current code from its configuration, and how they are compared in words."""

from __future__ import annotations

import json
from functools import cache

from benchmarks.published.readings import Reading
from hjepa.config import Config, load_config
from hjepa.training.cost import training_cost


def flop_per_image(config: Config, processes: int = 1, channels: int = 3) -> float:
    """FLOP per training image.

    Args:
        config: the configuration.
        processes: that share a batch.
        channels: of the images.
    """
    return _counted(config.model_dump_json(), processes, channels)


def work_of(reading: Reading) -> float:
    """FLOP per training image of a model that was evaluated.

    Raises:
        ValueError: its configuration asks for an option that is gone.
    """
    if reading.today is None:
        raise ValueError("the program no longer has an option of this configuration")
    return flop_per_image(reading.today, reading.processes)


def compared(work: float, other: float) -> str:
    """How much more or less the first is than the second, in words: ``4.5 % more FLOP``."""
    share = 100 * (work / other - 1)
    if abs(share) < 0.05:
        return "as many FLOP"
    return f"{abs(share):.1f} % {'more' if share > 0 else 'fewer'} FLOP"


@cache
def _counted(config_json: str, processes: int, channels: int) -> float:
    return training_cost(load_config(json.loads(config_json)), channels, processes=processes).total
