"""Which image stands where: the order of an epoch, and the images of a step.

A step has ``global_batch = batch_size * accumulation_steps * world_size`` positions. Order and augmentation belong to
(seed, epoch or step, position), so the number of processes, of workers and of accumulation steps changes nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hjepa.data.streams import Purpose, stream


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of an epoch: int64 ``[count]``, read-only."""
    order = stream(Purpose.ORDER, seed, epoch).permutation(count)
    order.setflags(write=False)
    return order


class StepOrder:
    """The images of every step.

    An epoch has ``max(1, count // global_batch)`` steps; what is left over is dropped, other images every epoch. A set
    smaller than the global batch wraps around.

    Args:
        count: images in the data set.
        global_batch: images per optimiser step, over all processes and accumulation steps.
        seed: of the run.
    """

    def __init__(self, count: int, global_batch: int, seed: int) -> None:
        self.count = count
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = max(1, count // global_batch)

    def indices(self, step: int) -> np.ndarray:
        """Indices of the images at all positions of a step: int64 ``[global_batch]``."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.count)
        return order[(inside * self.global_batch + np.arange(self.global_batch)) % self.count]


def micro_batch(batch_size: int, world_size: int, rank: int, number: int) -> slice:
    """The global positions of one process's micro-batch."""
    start = (number * world_size + rank) * batch_size
    return slice(start, start + batch_size)
