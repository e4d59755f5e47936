"""Choose the device and configure PyTorch's backends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from hjepa.errors import UserError
from hjepa.runtime.threads import choose_threads

if TYPE_CHECKING:
    from hjepa.config import TrainingConfig


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:<n>` or `mps` to an available device.

    Args:
        name: the ``device`` key.
        local_rank: process number on this machine; picks the GPU if none is named.

    Raises:
        UserError: the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"device: {name!r}, but PyTorch sees no CUDA GPU here; use cpu or auto (`hjepa doctor` says more)"
            )
        number = int(index) if index else local_rank
        if number >= torch.cuda.device_count():
            raise UserError(
                f"device: {name!r}, but there are {torch.cuda.device_count()} GPU(s); use cuda:0 to cuda:{torch.cuda.device_count() - 1}"
            )
        return torch.device("cuda", number)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device: 'mps', but PyTorch sees no Apple GPU here; use cpu or auto")
    if kind not in ("cpu", "mps"):
        raise UserError(f"device: unknown device {name!r}; use auto, cpu, cuda, cuda:<n> or mps")
    return torch.device(kind)


def configure_backend(config: TrainingConfig, device: torch.device, *, processes: int = 1) -> None:
    """Set CPU threads, the precision of matrix products and determinism, process-wide.

    Args:
        config: the ``training`` section.
        device: where the model will be.
        processes: training processes on this machine, which share its cores.
    """
    threads = config.num_threads or choose_threads(processes)
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
        if config.deterministic:
            # Read by cuBLAS when it creates its first handle, which is later.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not config.deterministic
    # Only if it changes something: the call imports the compiler, which takes seconds.
    if config.deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(config.deterministic)
