"""The finding of one rule about a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hjepa.health.evidence import Evidence

Kind = Literal["bad", "warn", "good", "note"]

FINISHED = 0.98
"""Share of the planned steps at or above which a run counts as finished."""


@dataclass(frozen=True)
class Finding:
    """The finding of one rule.

    Attributes:
        kind: ``bad``, ``warn``, ``good`` or ``note``.
        text: the observation, one or two sentences; backticks mark code.
        advice: what to change in the next run; None if nothing.
    """

    kind: Kind
    text: str
    advice: str | None = None


def train_longer(e: Evidence) -> str:
    """Advice to train longer. Several rules give it in the same words, so that duplicates can be removed."""
    return f"Train longer: try `training.epochs={2 * e.config.training.epochs:g}` next."


def finished(e: Evidence) -> bool:
    """Whether the checkpoint is from the end of the planned run; true if the plan is unknown."""
    return e.total_steps is None or e.step >= FINISHED * e.total_steps
