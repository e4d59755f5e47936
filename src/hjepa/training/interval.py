"""What is summed up between two records of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hjepa.objectives import LossTerms
from hjepa.runtime import distribution


@dataclass
class Interval:
    """Sums since the last logged record, in float32; tensors stay on the device until it is written."""

    loss: Tensor | None = None
    levels: Tensor | None = None
    regularisers: dict[str, Tensor] | None = None
    micro_batches: int = 0
    waiting: float = 0.0
    started: float = 0.0

    def add(self, terms: LossTerms, made: Tensor | None = None) -> None:
        """Add a micro-batch.

        Args:
            terms: its loss.
            made: whether its update is made, if only the device knows; where it is not, nothing is added, and whoever
                learns of it takes the micro-batch off the count.
        """

        def added(before: Tensor | None, value: Tensor) -> Tensor:
            # A sum of bf16 numbers in bf16 stops growing once a term is below its last bit.
            value = value.float()
            value = value if made is None else torch.where(made, value, torch.zeros_like(value))
            return value if before is None else before + value

        self.micro_batches += 1
        self.loss = added(self.loss, terms.total.detach())
        self.levels = added(self.levels, terms.levels)
        before = self.regularisers or {}
        self.regularisers = {name: added(before.get(name), value) for name, value in terms.regularisers.items()}

    def means(self, chance: Tensor) -> dict[str, float]:
        """Mean loss, levels and regularisers over micro-batches and processes, as a record names them.

        Args:
            chance: loss per level of a predictor that knows nothing of the image [L].
        """
        assert self.loss is not None
        assert self.levels is not None
        terms = self.regularisers or {}
        count = len(self.levels)
        values = torch.cat([self.loss.reshape(1), self.levels, chance, *[v.reshape(1) for v in terms.values()]])
        values[: 1 + count] /= self.micro_batches
        values[1 + 2 * count :] /= self.micro_batches
        numbers = distribution.mean_over_processes(values).tolist()
        names = ["loss", *(f"{what}/level_{i}" for what in ("loss", "chance") for i in range(count)), *terms]
        return dict(zip(names, numbers, strict=True))

    def state(self) -> dict[str, Any]:
        """The sums, for a checkpoint between two records."""
        return {
            "loss": self.loss,
            "levels": self.levels,
            "regularisers": self.regularisers,
            "micro_batches": self.micro_batches,
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Put the sums back."""
        sums = state["regularisers"]
        self.loss = None if state["loss"] is None else state["loss"].to(device)
        self.levels = None if state["levels"] is None else state["levels"].to(device)
        self.regularisers = None if sums is None else {name: value.to(device) for name, value in sums.items()}
        self.micro_batches = state["micro_batches"]


def mean_state(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of the sums of several processes, from which another number of processes goes on."""
    first = states[0]
    if first["loss"] is None:
        return first
    return {
        "loss": torch.stack([s["loss"] for s in states]).mean(dim=0),
        "levels": torch.stack([s["levels"] for s in states]).mean(dim=0),
        "regularisers": {
            name: torch.stack([s["regularisers"][name] for s in states]).mean(dim=0) for name in first["regularisers"]
        },
        "micro_batches": first["micro_batches"],
    }
