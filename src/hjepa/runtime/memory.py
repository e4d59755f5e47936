"""The most memory that a process or a device has used."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def peak_memory(device: torch.device) -> int | None:
    """Highest memory so far, in bytes: allocated by PyTorch on a CUDA GPU, resident in the process on a CPU.

    None where it cannot be measured (Apple GPUs, Windows).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return None
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux a child process inherits the figure of `getrusage` from its parent; VmHWM is the process's own.
        line = next((t for t in status.read_text(encoding="utf-8").splitlines() if t.startswith("VmHWM")), None)
        return None if line is None else int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
