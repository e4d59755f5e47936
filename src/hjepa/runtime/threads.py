"""Number of CPU threads to use: one per physical core available to the process."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

_ROOT = Path("/")


def choose_threads(processes: int = 1) -> int:
    """Threads for the matrix products of one process.

    `OMP_NUM_THREADS` (which `torchrun` sets) or `MKL_NUM_THREADS` takes precedence. Otherwise the physical cores that
    this process may use, limited by its affinity and CPU quota, are divided among the processes on this machine. A
    second thread per core does not help: it shares the core's arithmetic units and competes for its caches.

    Args:
        processes: training processes on this machine.
    """
    if any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return torch.get_num_threads()
    return max(1, usable_cores() // processes)


@contextlib.contextmanager
def threads_of(processes: int) -> Iterator[int]:
    """Context for work of one process alone, such as evaluation after training: use the threads of all processes.

    Args:
        processes: training processes on this machine, including this one; the others are idle or have ended.

    Yields:
        The number of threads inside the context.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before * processes)
    try:
        yield before * processes
    finally:
        torch.set_num_threads(before)


def usable_cores(root: Path = _ROOT) -> int:
    """Physical cores that this process may use, at least 1.

    On other systems joblib counts them. On Linux it is wrong in two cases: with a CPU affinity it counts both hardware
    threads of a core, and it reads the quota of the root control group only, which misses the limits of system services
    and batch jobs.

    Args:
        root: where `/proc` and `/sys` are.
    """
    if sys.platform != "linux":
        from joblib import cpu_count

        return int(cpu_count(only_physical_cores=True))
    quota = cpu_quota(root)
    cores = physical_cores(os.sched_getaffinity(0), root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def physical_cores(processors: set[int], root: Path = _ROOT) -> int:
    """Number of physical cores behind some logical CPUs; if the system does not say, each counts as a core."""
    cores = set()
    for number in processors:
        file = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        try:
            cores.add(file.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(number))
    return max(1, len(cores))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPU quota of this process in cores, the smallest along its control group path; None if unlimited.

    Args:
        root: where `/proc` and `/sys` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    base = root / "sys/fs/cgroup"
    granted = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # The line without controllers is cgroup v2. A container often sees its own group as the root.
        mount = base if not controllers else base / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for folder in {mount, *(mount / part for part in (group, *group.parents))}:
            granted.append(_quota_of_group(folder))
    limits = [quota for quota in granted if quota is not None]
    return min(limits, default=None)


def _quota_of_group(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        # "max" in v2 and -1 in v1 mean unlimited.
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
