"""Keyed random numbers: the same (purpose, seed, counter) gives the same numbers in every process and on every machine.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): its key
selects an independent stream, so draws need no order and no state needs saving.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for. Streams of different purposes are independent, even at equal seed and counter.

    Published results depend on these values: never change one, and give a new purpose the next free small number.
    """

    PROBE_SPLIT = 0
    """Training features held out to choose the regulariser of a linear probe."""
    ORDER = 1
    """Order of the training images."""
    AUGMENTATION = 2
    """Crops, flips and colours."""
    SPLIT = 3
    """Images held out for testing if a data set has no test split of its own."""
    SUBSET = 4
    """Images of ``data.subset``."""
    STATISTICS = 5
    """Images on which mean and standard deviation are measured."""
    SHARDS = 6
    """Order of shards."""
    VALIDATION = 7
    """Training images whose labels are withheld."""
    COLOURS = 8
    """Greyscale, blur and solarising."""
    CORRUPTIONS = 9
    """Noise, directions and distortions of corrupted test images."""
    EPISODES = 10
    """Classes and images of few-shot episodes."""
    FEW_LABELS = 11
    """Training images whose labels are used if only a few are."""
    ATTENTIVE = 12
    """Order of the images in the training of an attentive probe."""
    REFERENCES = 0x747261
    """Training images that an evaluation fits on."""
    READ = 0x746573
    """Images that an evaluation is scored on."""
    FIGURES = 0x766973
    """Images shown in figures."""
    ONLINE = 0x6F6E6C
    """Images of the evaluation during training."""
    MASKS = 0x6D61736B
    """Masks of a training step."""
    MASK_COUNTS = 0x63616C69
    """Masks from which the token counts of a run are calibrated."""


# Drawn once per run: the purpose takes the place of the counter.
_ONCE = frozenset({Purpose.PROBE_SPLIT, Purpose.REFERENCES, Purpose.READ, Purpose.FIGURES, Purpose.ONLINE})
# The seed is in the upper half of the first word instead of the lower one.
_SEED_FIRST = frozenset({Purpose.MASKS, Purpose.MASK_COUNTS})


def philox_key(purpose: Purpose, seed: int, counter: int = 0) -> np.ndarray:
    """The Philox key of a purpose, for code that uses Philox directly rather than a generator.

    There are three layouts for historical reasons; changing one would change published results.

    Args:
        purpose: what the numbers are for.
        seed: 0 or more, below 2**32 (the purpose takes the other half of the 64-bit word).
        counter: an epoch or a step, 0 or more, below 2**64; 0 for purposes drawn once per run.

    Returns:
        uint64 [2].

    Raises:
        ValueError: a seed out of range, or a counter for a purpose drawn once per run.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
    if purpose in _ONCE:
        if counter:
            raise ValueError(f"{purpose.name} is drawn once per run and takes no counter, got {counter}")
        return np.array([seed, int(purpose)], dtype=np.uint64)
    if purpose in _SEED_FIRST:
        return np.array([(seed << 32) | int(purpose), counter], dtype=np.uint64)
    return np.array([(int(purpose) << 32) | seed, counter], dtype=np.uint64)


def stream(purpose: Purpose, seed: int, counter: int = 0) -> np.random.Generator:
    """A generator for a purpose; arguments and errors as in `philox_key`."""
    return np.random.Generator(np.random.Philox(key=philox_key(purpose, seed, counter)))
