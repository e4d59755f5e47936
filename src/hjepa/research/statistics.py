"""Means over seeds with confidence intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds.

    Attributes:
        mean: mean.
        low, high: ends of the 95 % confidence interval of the mean (Student's t); None for a single value.
        count: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}


def interval(values: Sequence[float]) -> Interval:
    """Mean and confidence interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to average")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    from scipy import stats

    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Interval | None:
    """Interval of the difference over the seeds that both have; None if there are none.

    Pairing cancels effects of the seed that both share (initial weights, order of images, masks), which cause most of
    the spread of small runs.

    Args:
        values, reference: seed -> value.
    """
    both = [seed for seed in values if seed in reference]
    return interval([values[seed] - reference[seed] for seed in both]) if both else None
