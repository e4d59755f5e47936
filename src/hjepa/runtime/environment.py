"""The environment of a run: versions, device, threads, commit, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hjepa.config import Config


def _program() -> str:
    """The command that starts the program, as a user would type it."""
    name = Path(sys.argv[0]).name
    if name != "__main__.py":
        return name
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return f"torchrun --nproc-per-node {processes} -m hjepa" if processes else "python -m hjepa"


def environment(config: Config, device: torch.device, world_size: int) -> dict[str, Any]:
    """What is needed to repeat the run, as plain values."""
    import numpy
    import torch
    import torchvision

    from hjepa.version import __version__

    return {
        "hjepa": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "processes": world_size,
        "seed": config.seed,
        "commit": git_commit(),
        "command": f"{_program()} {shlex.join(sys.argv[1:])}".rstrip(),
    }


def _processor() -> str:
    """Name of the CPU: from /proc/cpuinfo on Linux, from `platform` elsewhere."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the source tree, with `+` for uncommitted changes; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        if head.returncode:
            return None
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")
