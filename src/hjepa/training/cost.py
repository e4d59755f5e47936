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


def training_cost(config: Config, channels: int, *, processes: int = 1, device: str | None = None) -> StepCost:
    """Count the FLOP of a training step of a configuration, without building the model.

    The work of all processes is added. Muon's matrices are divided among processes on CPUs, and computed by every
    process on GPUs (see `Muon`). Where they do not divide evenly, the last shares overlap; that is not counted.

    Args:
        config: the configuration.
        channels: input channels.
        processes: number of processes that share a batch.
        device: type of the devices, such as ``cpu`` or ``cuda``; if None that of the configuration, where ``auto``
            counts as a CPU, so that the count does not depend on the machine.

    Raises:
        UserError: the method does not count its FLOP, or it rejects the configuration.
    """
    cost = counted_cost(config, channels, processes=processes, device=device)
    if cost is None:
        raise UserError(
            f"method: {config.method} does not count its FLOP; implement its `cost`, or compare by images seen"
        )
    return cost


def counted_cost(config: Config, channels: int, *, processes: int = 1, device: str | None = None) -> StepCost | None:
    """Like `training_cost`, but None if the method does not count its FLOP."""
    cost = find_method(config.method).cost(config, channels, processes=processes)
    if cost is None:
        return None
    if config.training.optimizer != "muon":
        return cost
    images = config.data.batch_size * config.training.accumulation_steps * processes
    once = sum(flop_of_orthogonalising(*shape) for shape in cost.hidden)
    repeats = processes if (device or config.device).startswith("cuda") else 1
    return replace(cost, optimizer=repeats * once / images)
