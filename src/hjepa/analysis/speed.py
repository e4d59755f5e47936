"""How fast a run was, what it spent its time on, and how long other numbers of epochs would take."""

from __future__ import annotations

from statistics import median
from typing import Any

from hjepa.analysis.history import History
from hjepa.runs.records import series

_EPOCHS = (0.5, 1, 2, 4, 10)
"""Multiples of the run's own number of epochs for which the time is given."""


def speed(history: History) -> dict[str, Any] | None:
    """Images per second and shares of the time; None without records.

    Returns:
        ``images_per_second``: ``median``, ``first`` and ``last`` (medians of the first and last tenth); ``seconds`` so
        far; ``shares`` of them: ``training``, ``waiting_for_data``, ``evaluation`` (online k-NN and health), ``other``
        (checkpoints, start); ``seconds_per_epoch``; ``left``: seconds to the end of a run that is not finished.
    """
    train, evaluations = history.records.train, history.records.evaluations
    _, rates = series(train, "images_per_second")
    seconds = history.records.seconds
    if not rates or not seconds:
        return None
    tenth = max(1, len(rates) // 10)
    epochs, total = history.epoch, history.config.training.epochs
    per_epoch = seconds / epochs if epochs else None
    left = None
    if per_epoch is not None and history.status() in ("running", "stopped"):
        left = max(0.0, (total - epochs) * per_epoch)
    return {
        "images_per_second": {
            "median": median(rates),
            "first": median(rates[:tenth]),
            "last": median(rates[-tenth:]),
        },
        "seconds": seconds,
        "shares": _shares(train, evaluations, seconds),
        "seconds_per_epoch": per_epoch,
        "left": left,
        "device": history.environment.get("device_name") or history.environment.get("device"),
        "processes": history.environment.get("processes"),
        "threads": history.environment.get("threads"),
    }


def _shares(train: list[dict[str, Any]], evaluations: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    stepping, waiting = 0.0, 0.0
    before_step, before_time = 0, 0.0
    for record in train:
        # The interval without evaluations, from its own throughput; the batch is the same over the run.
        spent = float(record.get("time", 0.0)) - before_time
        inside = sum(
            float(e.get("seconds", 0.0)) for e in evaluations if before_step < int(e["step"]) <= int(record["step"])
        )
        stepping += max(0.0, spent - inside)
        waiting += max(0.0, spent - inside) * float(record.get("data_wait", 0.0))
        before_step, before_time = int(record["step"]), float(record.get("time", 0.0))
    judged = sum(float(e.get("seconds", 0.0)) for e in evaluations)
    shares = {
        "training": max(0.0, stepping - waiting) / seconds,
        "waiting_for_data": waiting / seconds,
        "evaluation": min(1.0, judged / seconds),
    }
    return shares | {"other": max(0.0, 1 - sum(shares.values()))}


def projections(history: History, measured: dict[str, Any] | None) -> list[dict[str, float]]:
    """Time that other numbers of epochs would take on the same machine, from the time of an epoch so far."""
    if measured is None or not measured["seconds_per_epoch"]:
        return []
    own = float(history.config.training.epochs)
    return [{"epochs": own * factor, "seconds": own * factor * measured["seconds_per_epoch"]} for factor in _EPOCHS]
