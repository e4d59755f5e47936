"""Length of a run, for values that a method schedules over it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Horizon:
    """The length of a run in optimiser steps.

    Attributes:
        steps_per_epoch: optimiser steps per epoch.
        total_steps: optimiser steps of the whole run.
    """

    steps_per_epoch: int
    total_steps: int

    def share(self, step: float, start: float = 0.0) -> float:
        """Progress at ``step`` from step ``start`` to the end, 0 to 1."""
        return min(1.0, max(0.0, (step - start) / max(1.0, self.total_steps - start)))


def cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from ``start`` (at ``share`` 0) to ``end`` (at 1)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
