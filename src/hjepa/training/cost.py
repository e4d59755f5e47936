"""FLOP of a whole training step: what the method counts, and the optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hjepa.errors import UserError
from hjepa.methods import find_method
from hjepa.training.optim.muon import flop_of_orthogonalising

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.models.cost import StepCost


def training_cost(config: Config, channels: int, *, processes: int = 1) -> StepCost:
    """Count a training step of a configuration, whole; no weights are made.

    Args:
        config: the configuration.
        channels: input channels.
        processes: that share a batch.

    Raises:
        UserError: a method that does not count its work, or a configuration that it refuses.
    """
    cost = find_method(config.method).cost(config, channels, processes=processes)
    if cost is None:
        raise UserError(f"method: {config.method} does not count its work; give it a `cost`, or compare by images seen")
    if config.training.optimizer != "muon":
        return cost
    images = config.data.batch_size * config.training.accumulation_steps * processes
    return replace(cost, optimizer=sum(flop_of_orthogonalising(*shape) for shape in cost.hidden) / images)
