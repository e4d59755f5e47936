"""The run folder: what it holds and where."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.config import dump_config
from hjepa.errors import UserError
from hjepa.training.lock import FolderLock

if TYPE_CHECKING:
    import torch

    from hjepa.config import Config


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        root: the run folder.
        checkpoints: folder of checkpoints, inside it unless the configuration says otherwise.
    """

    root: Path
    checkpoints: Path

    @property
    def last(self) -> Path:
        """The newest checkpoint: what is there, or the file that will be."""
        from hjepa.training.finding import last_checkpoint

        return last_checkpoint(self.checkpoints) or self.checkpoints / "last.pth"

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.checkpoints / "best_model.pth"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def run(self) -> str:
        """Identity of the run that the folder holds; empty where there is none yet."""
        try:
            return str(json.loads((self.root / "environment.json").read_text(encoding="utf-8")).get("run", ""))
        except (OSError, ValueError, AttributeError):
            return ""

    def create(self) -> None:
        """Create the folders. Raises `UserError` where that is not possible."""
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out. Raises `UserError` if there is one."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(FolderLock(self.root))
            if self.checkpoints.resolve().parent != self.root.resolve():
                stack.enter_context(FolderLock(self.checkpoints))
            yield

    def describe(self, config: Config, device: torch.device, world_size: int, run: str) -> None:
        """Write the resolved configuration and the environment."""
        with self._writing():
            write_atomically(self.root / "config.yaml", dump_config(config))
            told = {"run": run, **environment(config, device, world_size)}
            write_atomically(self.root / "environment.json", json.dumps(told, indent=2))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.root}: cannot be written ({error.strerror}); choose another --output-dir") from None


def locate(config: Config, output_dir: str | Path | None) -> RunFolder:
    """The run folder of a configuration; ``--output-dir`` overrides its folders."""
    if output_dir is not None:
        return RunFolder(Path(output_dir), Path(output_dir) / "checkpoints")
    root = config.logging.log_dir or Path("runs") / config.logging.experiment_name
    return RunFolder(root, config.checkpoint.checkpoint_dir or root / "checkpoints")


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _program() -> str:
    """How the program was started, as a user would type it again."""
    name = Path(sys.argv[0]).name
    if name != "__main__.py":
        return name
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    return f"torchrun --nproc-per-node {processes} -m hjepa" if processes else "python -m hjepa"


def environment(config: Config, device: torch.device, world_size: int) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
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
    """The processor's name; Linux keeps it in a file, elsewhere Python knows it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the source tree the package runs from, with `+` for uncommitted changes; nothing when installed."""
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
