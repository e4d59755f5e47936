"""Per-process state of a run: random number generators and the sums of the current logging interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hjepa.runtime import distribution
from hjepa.training.step import Interval, mean_state


def gather_process_states(interval: Interval, device: torch.device) -> list[dict[str, Any]]:
    """The states of all processes, by rank. All processes must call it."""
    from hjepa.runs.checkpoint import snapshot

    random = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    return distribution.from_all({"random": random, "interval": snapshot(interval.state())})


def restore_process_state(
    states: Sequence[dict[str, Any]], interval: Interval, device: torch.device, world: distribution.World
) -> None:
    """Restore this process's state.

    If the number of processes has changed, each gets the mean of the sums, and its generator (used by stochastic depth
    only) keeps its fresh seed.
    """
    same = len(states) == world.size
    own = states[world.rank if same else 0]
    sums = own["interval"]
    if sums is not None and not same:
        sums = mean_state([s["interval"] for s in states])
    if sums is not None:
        interval.restore(sums, device)
    if same:
        torch.set_rng_state(own["random"]["cpu"].cpu())
        if device.type == "cuda" and "cuda" in own["random"]:
            torch.cuda.set_rng_state(own["random"]["cuda"].cpu(), device)
