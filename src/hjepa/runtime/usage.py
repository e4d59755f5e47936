"""What a run uses of its machine: memory, processors, GPU, disk."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from pathlib import Path

import psutil
import torch

_GB = 1e9


class Usage:
    """Reads what this process and its data workers use.

    Reading takes well under a millisecond, a few with a GPU whose utilisation can be read.

    Args:
        folder: whose disk is watched.
        device: where the model is.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._device = device
        self._own = psutil.Process()
        self._gpu_is_told = device.type == "cuda"
        self._busy, self._at = self._seconds(), time.perf_counter()
        # The first answer of this function is meaningless: it compares with the previous call.
        psutil.cpu_percent()

    def read(self) -> dict[str, float]:
        """Numbers by the names used in records; what this machine cannot tell is left out.

        Returns:
            ``system/ram_gb``: memory of this process and its workers, 10^9 bytes;
            ``system/ram_used``: memory in use on the whole machine, 0 to 1;
            ``system/cpu_cores``: processor seconds of this process and its workers per second since the last call;
            ``system/cpu_used``: processors in use on the whole machine since the last call, 0 to 1;
            ``system/disk_free_gb``: free on the disk of the run folder;
            on a CUDA GPU ``system/gpu_memory_gb`` and ``system/gpu_memory_peak_gb``: memory that PyTorch has allocated now and
            at most; ``system/gpu_used``: time that the GPU was busy, 0 to 1, if the package nvidia-ml-py is installed.
        """
        values: dict[str, float] = {}
        with contextlib.suppress(psutil.Error, OSError):
            values["system/ram_gb"] = sum(process.memory_info().rss for process in self._processes()) / _GB
            values["system/ram_used"] = psutil.virtual_memory().percent / 100
            values["system/cpu_cores"] = self._cores()
            values["system/cpu_used"] = psutil.cpu_percent() / 100
            values["system/disk_free_gb"] = psutil.disk_usage(str(self._folder)).free / _GB
        return values | self._gpu()

    def _processes(self) -> list[psutil.Process]:
        workers = []
        for child in multiprocessing.active_children():
            # A worker may have ended just now.
            with contextlib.suppress(psutil.Error):
                workers.append(psutil.Process(child.pid))
        return [self._own, *workers]

    def _seconds(self) -> float:
        """Processor seconds of this process and its workers."""
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _cores(self) -> float:
        busy, now = self._seconds(), time.perf_counter()
        # Less than before if a worker has ended.
        cores = max(0.0, busy - self._busy) / max(1e-6, now - self._at)
        self._busy, self._at = busy, now
        return cores

    def _gpu(self) -> dict[str, float]:
        if self._device.type != "cuda":
            return {}
        values = {
            "system/gpu_memory_gb": torch.cuda.memory_allocated(self._device) / _GB,
            "system/gpu_memory_peak_gb": torch.cuda.max_memory_allocated(self._device) / _GB,
        }
        if self._gpu_is_told:
            try:
                values["system/gpu_used"] = torch.cuda.utilization(self._device) / 100
            except (ImportError, RuntimeError, OSError):
                # The package is missing, or the driver does not tell.
                self._gpu_is_told = False
        return values
