"""Taking a fixed number of cells per image by preference, ties broken at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RANDOM_BITS = 24
"""Bits of the random numbers that decide within a class of preference."""


def choose(preference: NDArray[np.uint8], random: NDArray[np.uint32], count: int) -> NDArray[np.bool_]:
    """The most preferred cells of each row: by class of preference (0 first), at random within a class.

    Preference and random number are packed into one 32-bit integer each. The largest key of those chosen is found by
    partition, which needs no order and no indices: much less work than sorting. Equal keys go to the smaller index.

    Args:
        preference: small integers [B, N], below 256.
        random: uniform integers below 2**24, [B, N].
        count: cells to take per row, 1 to N.

    Returns:
        bool [B, N], with ``count`` true entries in every row.
    """
    keys = preference.astype(np.uint32)
    keys <<= RANDOM_BITS
    keys |= random
    last = np.partition(keys, count - 1, axis=1)[:, count - 1 : count]
    chosen = keys <= last
    if np.count_nonzero(chosen) > count * len(chosen):
        # Once in some thousand batches two keys are equal just there.
        tied = keys == last
        surplus = chosen.sum(axis=1, keepdims=True) - count
        from_the_end = tied[:, ::-1].cumsum(axis=1)[:, ::-1]
        chosen &= ~(tied & (from_the_end <= surplus))
    return chosen


def indices(chosen: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Indices [B, count], ascending, of the true entries of [B, N], of which every row has ``count``."""
    rows, cells = chosen.shape
    found = np.flatnonzero(chosen).reshape(rows, count)
    found -= cells * np.arange(rows)[:, None]
    return found
