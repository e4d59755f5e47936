"""Running out of memory: what counts as it, and the next smaller micro-batch with the same effective batch."""

from __future__ import annotations

import torch

from hjepa.errors import UserError

# What PyTorch's allocators for main memory and for Apple's GPU say; CUDA has an exception of its own.
_TEXTS = ("can't allocate memory", "not enough memory", "out of memory")


class MicroBatchTooLargeError(UserError):
    """The gradient of a micro-batch does not fit into memory; nothing was updated."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _TEXTS)


def next_rung(batch_size: int, accumulation_steps: int, fewest: int = 1) -> tuple[int, int] | None:
    """The next rung of the ladder 8 x 4 -> 4 x 8 -> 2 x 16 -> 1 x 32.

    The micro-batch is divided by its smallest prime factor, the number of micro-batches multiplied by it.

    Args:
        batch_size: images per forward pass.
        accumulation_steps: forward passes per update.
        fewest: images that a forward pass needs at least.

    Returns:
        the new pair, of the same product, or nothing at the end of the ladder.
    """
    for factor in range(2, batch_size + 1):
        if batch_size % factor == 0:
            smaller = batch_size // factor
            return (smaller, accumulation_steps * factor) if smaller >= fewest else None
    return None
