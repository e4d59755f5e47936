"""Intervals and paired differences, compared with scipy and closed forms."""

from __future__ import annotations

import random

import pytest
from scipy import stats

from hjepa.research.statistics import interval, paired_difference


def test_the_interval_follows_students_t() -> None:
    values = [0.51, 0.55, 0.49, 0.6, 0.52]
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=stats.sem(values))
    assert found.mean == pytest.approx(sum(values) / 5)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval() -> None:
    found = interval([0.5])
    assert (found.mean, found.low, found.high, found.count) == (0.5, None, None, 1)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_pairing_removes_the_common_effect_of_a_seed() -> None:
    rng = random.Random(0)
    shared = {seed: rng.gauss(0.5, 0.1) for seed in range(6)}
    better = {seed: value + 0.01 + rng.gauss(0, 0.001) for seed, value in shared.items()}
    found = paired_difference(better, shared)
    assert found is not None
    assert found.low is not None
    assert 0 < found.low < 0.01 < found.low + 0.01
    spread = interval(list(better.values()))
    assert spread.low is not None
    # Unpaired, the spread between seeds would hide the difference.
    assert spread.mean - spread.low > 5 * (found.mean - found.low)


def test_only_seeds_that_both_have_are_compared() -> None:
    found = paired_difference({0: 1.0, 1: 5.0}, {0: 0.5, 2: 0.0})
    assert found is not None
    assert (found.mean, found.count) == (0.5, 1)
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


def test_the_interval_has_the_stated_coverage() -> None:
    rng = random.Random(1)
    hits = 0
    for _ in range(400):
        found = interval([rng.gauss(3.0, 2.0) for _ in range(4)])
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 3.0 <= found.high
    assert 0.92 < hits / 400 < 0.98
