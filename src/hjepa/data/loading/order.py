"""Order of the images: the permutation of an epoch, and the images of a step.

A step has ``global_batch = batch_size * accumulation_steps * world_size`` positions. Order and augmentation are
functions of (seed, epoch or step, position), so they do not depend on the number of processes, workers or accumulation
steps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hjepa.runtime.random import Purpose, stream


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of an epoch: int64 [count], read-only."""
    order = stream(Purpose.ORDER, seed, epoch).permutation(count)
    order.setflags(write=False)
    return order


class StepOrder:
    """Order of a data set without shards: a random permutation per epoch.

    An epoch has ``max(1, count // global_batch)`` steps; the rest is dropped, different images every epoch. A set
    smaller than the global batch wraps around.

    Args:
        count: images in the data set.
        global_batch: images per optimiser step, over all processes and accumulation steps.
        seed: seed of the run.
    """

    def __init__(self, count: int, global_batch: int, seed: int) -> None:
        self.count = count
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = max(1, count // global_batch)

    def indices(self, step: int) -> np.ndarray:
        """Indices of the images at all positions of a step: int64 [global_batch]."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.count)
        return order[(inside * self.global_batch + np.arange(self.global_batch)) % self.count]


class ShardOrder:
    """Order of a data set in shards: neighbouring positions of a batch read from the same few shards.

    The positions of the global batch are divided into *lanes*. In every epoch the shards are concatenated in random
    order and cut into one segment per lane. A lane reads its segment in windows of a few shards, and shuffles the
    images within each window. A process has the same positions in every step, so it always reads the same lanes; with
    at least as many lanes as processes, processes do not share shards. The order itself does not depend on the number
    of processes.

    The number of steps per epoch and the dropped rest are as in `StepOrder`.

    Args:
        shards: int64 [N], the shard of every image.
        global_batch: images per optimiser step.
        seed: seed of the run.
        lanes: largest number of lanes.
        window: number of shards per window.
    """

    def __init__(self, shards: np.ndarray, global_batch: int, seed: int, *, lanes: int, window: int) -> None:
        self.count = len(shards)
        self.global_batch = global_batch
        self.seed = seed
        self.steps_per_epoch = max(1, self.count // global_batch)
        self.lanes = min(lanes, global_batch) if self.count >= global_batch else 1
        self._shards = shards
        self._window = window
        numbers = np.arange(self.lanes + 1)
        # First position and first image of each lane.
        self._positions = -(-numbers * global_batch // self.lanes)
        self._starts = self._positions * self.count // global_batch
        self._lane = np.repeat(numbers[:-1], np.diff(self._positions))
        self._known: dict[int, np.ndarray] = {}

    def indices(self, step: int) -> np.ndarray:
        """Indices of the images at all positions of a step: int64 [global_batch]."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        width = np.diff(self._positions)[self._lane]
        place = inside * width + np.arange(self.global_batch) - self._positions[self._lane]
        order = self._epoch(epoch)
        chosen: np.ndarray = order[(self._starts[self._lane] + place) % self.count]
        return chosen

    def shards_ahead(self, start: int, stop: int, positions: np.ndarray) -> list[int]:
        """The shards that the given positions read from in the steps ``start`` to ``stop - 1``, in order of use."""
        seen = dict.fromkeys(
            number for step in range(start, stop) for number in self._shards[self.indices(step)[positions]].tolist()
        )
        return list(seen)

    @property
    def steps_per_window(self) -> int:
        """Mean number of steps per window."""
        images = self._window * self.count / max(1, len(np.unique(self._shards)))
        return max(1, round(images * self.lanes / self.global_batch))

    def _epoch(self, epoch: int) -> np.ndarray:
        """All images in the order of an epoch, lane after lane."""
        if epoch not in self._known:
            # Near the end of an epoch, the next one is needed as well.
            self._known = {number: order for number, order in self._known.items() if abs(number - epoch) <= 1}
            self._known[epoch] = self._draw(epoch)
        return self._known[epoch]

    def _draw(self, epoch: int) -> np.ndarray:
        random = stream(Purpose.ORDER, self.seed, epoch)
        turn = random.permutation(int(self._shards.max()) + 1)
        # Shards are concatenated, each in random order, so that a lane's border divides a shard at random.
        sequence = np.argsort(turn[self._shards] + random.random(self.count), kind="stable")
        shards = self._shards[sequence]
        begins = np.zeros(self.count, dtype=bool)  # first image of a lane, or of a shard in a lane
        begins[1:] = shards[1:] != shards[:-1]
        begins[self._starts[:-1]] = True
        number = np.cumsum(begins)
        lane = np.repeat(np.arange(self.lanes), np.diff(self._starts))
        inside = number - number[self._starts[:-1]][lane]
        # Window numbers increase along the sequence: a lane has at most all shards.
        window = lane * (len(turn) + 1) + inside // self._window
        return sequence[np.argsort(window + random.random(self.count), kind="stable")]


def micro_batch(batch_size: int, world_size: int, rank: int, number: int) -> slice:
    """The global positions of micro-batch ``number`` of one process."""
    start = (number * world_size + rank) * batch_size
    return slice(start, start + batch_size)
