"""What one rule says of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hjepa.health.evidence import Evidence

Kind = Literal["bad", "warn", "good", "note"]

FINISHED = 0.98
"""Share of the planned steps from which on a run counts as finished."""


@dataclass(frozen=True)
class Finding:
    """What one rule says.

    Attributes:
        kind: ``bad``, ``warn``, ``good`` or ``note``.
        text: the observation, one or two sentences; backticks mark code.
        advice: what to do in the next run; nothing when there is nothing to do.
    """

    kind: Kind
    text: str
    advice: str | None = None


def train_longer(e: Evidence) -> str:
    """The advice that several rules give, in the same words, so that it is given once."""
    return f"Train longer: `training.epochs={2 * e.config.training.epochs:g}` is the next thing to try."


def finished(e: Evidence) -> bool:
    """Whether the checkpoint stands at the end of the planned run; unknown counts as yes."""
    return e.total_steps is None or e.step >= FINISHED * e.total_steps
