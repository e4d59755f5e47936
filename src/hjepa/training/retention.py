"""Which checkpoints of a run are written and kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hjepa.training.checkpoint import save_checkpoint


@dataclass
class Retention:
    """Keeps ``last.pth``, the best N periodic checkpoints and a copy of the best.

    Attributes:
        folder: where checkpoints go.
        keep: how many periodic checkpoints stay, best first; the newest always stays too.
        scores: file name -> score of the periodic checkpoints on disk, higher is better.
        best: best score so far.
    """

    folder: Path
    keep: int
    scores: dict[str, float] = field(default_factory=dict)
    best: float | None = None

    def save_last(self, state: dict[str, Any]) -> Path:
        """Write ``last.pth``."""
        save_checkpoint(self.folder / "last.pth", state | {"retention": self.state()})
        return self.folder / "last.pth"

    def save_periodic(self, name: str, state: dict[str, Any], score: float) -> None:
        """Write a periodic checkpoint and remove the worst ones beyond the number to keep."""
        self.scores[name] = score
        save_checkpoint(self.folder / name, state | {"retention": self.state()})
        ranked = sorted(self.scores, key=lambda n: self.scores[n], reverse=True)
        for old in ranked[self.keep :]:
            if old != name:
                (self.folder / old).unlink(missing_ok=True)
                del self.scores[old]

    def offer_best(self, state: dict[str, Any], score: float) -> bool:
        """Write ``best_model.pth`` if the score is the best so far."""
        if self.best is not None and score <= self.best:
            return False
        self.best = score
        save_checkpoint(self.folder / "best_model.pth", state | {"retention": self.state()})
        return True

    def ensure_best(self) -> None:
        """A run that was never evaluated has its last checkpoint as its best."""
        best, last = self.folder / "best_model.pth", self.folder / "last.pth"
        if not best.exists() and last.exists():
            shutil.copyfile(last, best)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"scores": dict(self.scores), "best": self.best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off; files that are gone are forgotten."""
        self.best = state["best"]
        self.scores = {name: s for name, s in state["scores"].items() if (self.folder / name).is_file()}
