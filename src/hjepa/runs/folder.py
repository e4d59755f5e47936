"""The run folder and the paths in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hjepa.config import dump_config
from hjepa.errors import UserError
from hjepa.runs.lock import FolderLock
from hjepa.runtime.environment import environment
from hjepa.runtime.files import write_atomically

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
        """The newest checkpoint, or the path of the first one if there is none yet."""
        from hjepa.runs.locate import last_checkpoint

        return last_checkpoint(self.checkpoints) or self.checkpoints / "last.pth"

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.checkpoints / "best_model.pth"

    @property
    def metrics(self) -> Path:
        """The metrics file, one JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def run(self) -> str:
        """Identity of the run in this folder; empty if there is none yet."""
        try:
            return str(json.loads((self.root / "environment.json").read_text(encoding="utf-8")).get("run", ""))
        except (OSError, ValueError, AttributeError):
            return ""

    def create(self) -> None:
        """Create the folders. Raises `UserError` if that fails."""
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folders against other runs. Raises `UserError` if one is using them."""
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
    """The run folder of a configuration; ``output_dir`` overrides its folders."""
    if output_dir is not None:
        return RunFolder(Path(output_dir), Path(output_dir) / "checkpoints")
    root = config.logging.log_dir or Path("runs") / config.logging.experiment_name
    return RunFolder(root, config.checkpoint.checkpoint_dir or root / "checkpoints")
