"""Peak throughput of a device in matrix products."""

from __future__ import annotations

import time

import torch

# Smallest side of the timed product, and the longest time in seconds it may take.
_SMALLEST_PRODUCT = 512
_LONGEST_PRODUCT = 2.0


def matmul_peak(device: torch.device, dtype: torch.dtype, *, side: int | None = None) -> float:
    """FLOP/s of large square matrix products, the best of several; the reference for a training step.

    Products are made smaller if they would take seconds: CPUs without bf16 instructions are hundreds of times slower.
    """
    side = side or (2048 if device.type == "cpu" else 8192)
    while side > _SMALLEST_PRODUCT and 64 * _product(device, dtype, side // 4, 1) > _LONGEST_PRODUCT:
        side //= 2
    return float(2 * side**3 / _product(device, dtype, side, 8))


def _product(device: torch.device, dtype: torch.dtype, side: int, times: int) -> float:
    """Seconds of the fastest of several products of square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    taken = []
    for _ in range(times):
        synchronise(device)
        started = time.perf_counter()
        a @ b
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return min(taken)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
