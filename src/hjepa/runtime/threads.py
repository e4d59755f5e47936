"""How many CPU threads a process should use: one for each physical core that it may really have."""

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

    A number set from outside (`OMP_NUM_THREADS`, `MKL_NUM_THREADS`; `torchrun` sets the first) stands. Otherwise the
    physical cores that this process may run on, at most its share of processor time in a container, are divided among
    the processes on this machine. A second thread on a core shares its arithmetic units and only costs caches.

    Args:
        processes: training processes on this machine.
    """
    if any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        return torch.get_num_threads()
    return max(1, usable_cores() // processes)


@contextlib.contextmanager
def threads_of(processes: int) -> Iterator[int]:
    """For what one process does alone, as evaluation after training: the threads of all that trained on this machine.

    Args:
        processes: training processes on this machine, this one included; the others wait or have ended.

    Yields:
        The number of threads inside.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before * processes)
    try:
        yield before * processes
    finally:
        torch.set_num_threads(before)


def usable_cores(root: Path = _ROOT) -> int:
    """Physical cores that this process may use, at least 1.

    On Linux by own count. joblib, which counts elsewhere, is wrong for two ways of running a training there: of a process
    that is bound to some processors it counts both threads of a core, and of quotas it knows that of the outermost
    control group only, which a container has but a system service or a batch job has not.

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
    """How many physical cores some logical processors are on; as many as processors where the system does not say."""
    cores = set()
    for number in processors:
        file = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        try:
            cores.add(file.read_text(encoding="ascii").strip())
        except OSError:
            cores.add(str(number))
    return max(1, len(cores))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Processors' worth of time that control groups grant this process, the least along its path; none: no limit.

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
        # Version 2 is the line without controllers; a container often sees its own group as the root.
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
        # "max" in version 2 and -1 in version 1 mean no limit.
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
