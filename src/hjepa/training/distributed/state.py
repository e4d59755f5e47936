"""The part of a run's state that differs between processes: random numbers, and the sums of an interval not yet over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hjepa.runtime import distribution
from hjepa.training.step import Interval, mean_state


def gather_process_states(interval: Interval, device: torch.device) -> list[dict[str, Any]]:
    """The states of all processes, in order. All must call it."""
    from hjepa.runs.checkpoint import snapshot

    random = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    return distribution.from_all({"random": random, "interval": snapshot(interval.state())})


def restore_process_state(
    states: Sequence[dict[str, Any]], interval: Interval, device: torch.device, world: distribution.World
) -> None:
    """Put this process's state back.

    Another number of processes than before shares the sums; their own random numbers (of stochastic depth; nothing else
    draws from them) begin anew.
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
