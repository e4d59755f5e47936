"""FLOP of a whole training step: the method's own count plus the optimiser."""

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
    """Count the FLOP of a training step of a configuration, without building the model.

    Args:
        config: the configuration.
        channels: input channels.
        processes: number of processes that share a batch.

    Raises:
        UserError: the method does not count its FLOP, or it rejects the configuration.
    """
    cost = find_method(config.method).cost(config, channels, processes=processes)
    if cost is None:
        raise UserError(
            f"method: {config.method} does not count its FLOP; implement its `cost`, or compare by images seen"
        )
    if config.training.optimizer != "muon":
        return cost
    images = config.data.batch_size * config.training.accumulation_steps * processes
    return replace(cost, optimizer=sum(flop_of_orthogonalising(*shape) for shape in cost.hidden) / images)
