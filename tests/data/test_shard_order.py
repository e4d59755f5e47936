"""The order of images in shards."""

from __future__ import annotations

import numpy as np
import pytest

from hjepa.data.loading.order import ShardOrder, StepOrder

UNEVEN = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 60, 40))


def order(shards: np.ndarray = UNEVEN, batch: int = 32, seed: int = 3, lanes: int = 8, window: int = 2) -> ShardOrder:
    return ShardOrder(shards, batch, seed, lanes=lanes, window=window)


def epoch(of: ShardOrder, number: int) -> np.ndarray:
    """``[steps, positions]``."""
    steps = of.steps_per_epoch
    return np.stack([of.indices(step) for step in range(number * steps, (number + 1) * steps)])


@pytest.mark.parametrize("lanes", [1, 3, 8, 32, 500])
@pytest.mark.parametrize("batch", [1, 7, 32, 100])
def test_an_epoch_has_every_image_at_most_once(batch: int, lanes: int) -> None:
    made = order(batch=batch, lanes=lanes)
    assert made.steps_per_epoch == StepOrder(len(UNEVEN), batch, 3).steps_per_epoch
    seen = epoch(made, 0).flatten()
    assert len(np.unique(seen)) == len(seen)
    assert len(seen) > len(UNEVEN) - batch
    again = epoch(made, 1).flatten()
    assert not np.array_equal(seen, again)
    assert np.array_equal(epoch(order(batch=batch, lanes=lanes), 1).flatten(), again)
    assert not np.array_equal(epoch(order(batch=batch, lanes=lanes, seed=4), 0).flatten(), seen)


def test_the_images_that_an_epoch_drops_change() -> None:
    made = order(batch=100)
    left_out = [set(range(len(UNEVEN))) - set(epoch(made, number).flatten().tolist()) for number in range(20)]
    assert all(0 < len(images) < 100 for images in left_out)
    assert len(set().union(*left_out)) > 2 * max(len(images) for images in left_out)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_read_disjoint_shards(world: int) -> None:
    shards = np.repeat(np.arange(80), 25)
    made = order(shards)
    assert made.lanes == 8
    read = shards[epoch(made, 0)]
    width = 32 // world
    by_rank = [set(np.unique(read[:, rank * width : (rank + 1) * width]).tolist()) for rank in range(world)]
    # Only a shard on the border between two lanes is read by two processes.
    assert sum(map(len, by_rank)) <= 80 + 7
    assert set().union(*by_rank) == set(range(80))


def test_a_lane_reads_and_mixes_a_few_shards_at_a_time() -> None:
    shards = np.repeat(np.arange(60), 40)
    made = order(shards, batch=8, lanes=4, window=3)
    lane = shards[epoch(made, 0)[:, :2]].flatten()
    # Two positions, so a window of three shards of 40 images lasts 60 steps; a border may have cut the first shard.
    for start in range(0, len(lane) - 40, 40):
        assert len(set(lane[start : start + 40].tolist())) <= 6
    changes = np.count_nonzero(lane[1:] != lane[:-1])
    assert changes > 0.5 * len(lane)
    one = shards[epoch(order(shards, batch=8, lanes=4, window=1), 0)[:, :2]].flatten()
    assert np.count_nonzero(one[1:] != one[:-1]) < 20


def test_one_shard_is_shuffled_as_a_whole() -> None:
    made = order(np.zeros(1000, dtype=np.int64), batch=10, lanes=4)
    first = epoch(made, 0)[:25].flatten()
    assert first.min() < 100
    assert first.max() > 900
    assert abs(np.corrcoef(np.arange(len(first)), first)[0, 1]) < 0.2


def test_a_set_smaller_than_the_batch_wraps_around() -> None:
    made = order(np.array([0, 0, 1, 1, 1]), batch=12)
    indices = made.indices(0)
    assert sorted(indices[:5].tolist()) == [0, 1, 2, 3, 4]
    assert np.array_equal(indices[5:10], indices[:5])


def test_shards_ahead_are_the_shards_read_later() -> None:
    made = order()
    positions = np.arange(8, 16)
    last = made.steps_per_epoch
    told = made.shards_ahead(last - 3, last + 3, positions)
    read = np.concatenate([UNEVEN[made.indices(step)[positions]] for step in range(last - 3, last + 3)])
    assert set(told) == set(read.tolist())
    assert len(told) == len(set(told))
    assert 1 <= made.steps_per_window <= made.steps_per_epoch
