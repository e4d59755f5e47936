"""Random numbers by key: the same (purpose, seed, counter) gives the same numbers in every process and on every device.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): its key
selects an independent stream, so nothing has to be drawn in order and no state has to be saved.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for; equal seeds and counters for two purposes give unrelated numbers."""

    ORDER = 1
    AUGMENTATION = 2
    SPLIT = 3
    SUBSET = 4
    STATISTICS = 5
    SHARDS = 6
    COLOURS = 7


def stream(purpose: Purpose, seed: int, counter: int = 0) -> np.random.Generator:
    """The generator of one purpose.

    Args:
        purpose: separates uses that share seed and counter.
        seed: 0 or more, below 2**32 (the purpose takes the upper half of the 64-bit word).
        counter: an epoch or a step, 0 or more, below 2**64.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
    key = np.array([(int(purpose) << 32) | seed, counter], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
