"""Keyed random streams: published draws do not change, and no two purposes share a stream."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hjepa.runtime.random import Purpose, philox_key, stream

# Keys of published results, from before all purposes were defined in one place.
PUBLISHED = {
    Purpose.ORDER: lambda seed, counter: [(1 << 32) | seed, counter],
    Purpose.SUBSET: lambda seed, counter: [(4 << 32) | seed, counter],
    Purpose.MASKS: lambda seed, counter: [(seed << 32) | 0x6D61736B, counter],
    Purpose.MASK_COUNTS: lambda seed, counter: [(seed << 32) | 0x63616C69, counter],
    Purpose.REFERENCES: lambda seed, _: [seed, 0x747261],
    Purpose.READ: lambda seed, _: [seed, 0x746573],
    Purpose.FIGURES: lambda seed, _: [seed, 0x766973],
    Purpose.ONLINE: lambda seed, _: [seed, 0x6F6E6C],
    Purpose.PROBE_SPLIT: lambda seed, _: seed,
}
ONCE = (Purpose.REFERENCES, Purpose.READ, Purpose.FIGURES, Purpose.ONLINE, Purpose.PROBE_SPLIT)


@pytest.mark.parametrize("purpose", list(PUBLISHED))
@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_published_draws_keep_their_numbers(purpose: Purpose, seed: int) -> None:
    counter = 0 if purpose in ONCE else 5
    before = np.random.Generator(np.random.Philox(key=PUBLISHED[purpose](seed, counter)))
    assert np.array_equal(stream(purpose, seed, counter).permutation(50), before.permutation(50))


def test_no_two_purposes_share_a_key() -> None:
    keys = [
        tuple(philox_key(purpose, seed, counter).tolist())
        for purpose in Purpose
        for seed, counter in itertools.product((0, 1, 2, 3, 1000), (0,) if purpose in ONCE else (0, 1, 2))
    ]
    assert len(keys) == len(set(keys))


def test_the_largest_seeds_give_distinct_keys() -> None:
    # Given such keys as a list, NumPy converted them to floats, and different purposes got the same stream.
    first, second = (philox_key(purpose, 2**32 - 1, 5).tolist() for purpose in (Purpose.MASKS, Purpose.MASK_COUNTS))
    assert first == [(2**32 - 1 << 32) | 0x6D61736B, 5]
    assert second == [(2**32 - 1 << 32) | 0x63616C69, 5]


def test_a_seed_out_of_range_and_an_unexpected_counter_are_refused() -> None:
    with pytest.raises(ValueError, match="below 2\\*\\*32"):
        stream(Purpose.ORDER, 2**32)
    with pytest.raises(ValueError, match="drawn once"):
        stream(Purpose.ONLINE, 0, 1)
