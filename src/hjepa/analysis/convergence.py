"""Is a run still improving? Slopes of online k-NN and of the loss at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hjepa.analysis.history import History, chance_levels, loss_terms
from hjepa.runs.records import series

# Share of the run at whose end slopes are measured, and the fewest points for one.
_LATE, _FEWEST = 1 / 3, 3
# A loss that falls by less than this share per tenth of the run has converged.
_FLAT_LOSS = 0.01


def convergence(history: History) -> dict[str, Any]:
    """Online k-NN, effective rank and loss over the last third of the records.

    Returns:
        ``knn``: None without labels, else ``first``, ``last``, ``best``, ``best_step``, ``noise`` (two standard errors
        of a difference), ``gain`` over the last third and whether it is ``rising`` by more than the noise;
        ``loss``: ``first``, ``last``, ``lowest``, ``change``: by how much it changes in a tenth of the run at the end, as
        a share, and whether it is ``falling``; ``rank``: ``first``, ``last`` of all levels together.
    """
    return {"knn": _knn(history), "loss": _loss(history), "rank": _rank(history)}


def _knn(history: History) -> dict[str, Any] | None:
    steps, values = series(history.records.evaluations, "knn")
    if not values:
        return None
    queries = max(1, int(history.records.evaluations[-1].get("knn_queries", 1)))
    last = values[-1]
    noise = 2 * math.sqrt(2 * max(last * (1 - last), 0.01) / queries)
    best = max(values)
    late = values[-max(2, round(_LATE * len(values))) :]
    gain = _line(np.arange(len(late)), late) * (len(late) - 1) if len(values) >= _FEWEST else None
    return {
        "first": values[0],
        "last": last,
        "best": best,
        "best_step": int(steps[values.index(best)]),
        "queries": queries,
        "noise": noise,
        "evaluations": len(values),
        "gain": gain,
        # The slope of a line uses all points, so half the noise of a single difference is enough.
        "rising": None if gain is None else gain > noise / 2,
        "below_best": best - last,
    }


def _loss(history: History) -> dict[str, Any] | None:
    steps, values = series(history.records.train, "loss")
    if not values:
        return None
    first, last = _mean(values[: max(1, len(values) // 20)]), _mean(values[-max(1, len(values) // 20) :])
    count = max(2, round(_LATE * len(values)))
    change = None
    if len(values) >= _FEWEST and last:
        tenth = 0.1 * (history.total_steps or steps[-1])
        change = _line(np.array(steps[-count:]), values[-count:]) * tenth / abs(last)
    return {
        "first": first,
        "last": last,
        "lowest": min(values),
        "change": change,
        "falling": None if change is None else change < -_FLAT_LOSS,
        "over_chance": _over_chance(history),
    }


def _over_chance(history: History) -> dict[str, float]:
    """By term, the loss as a share of its chance level over the last tenth of the records."""
    train = history.records.train
    tail = train[-max(1, len(train) // 10) :]
    shares: dict[str, list[float]] = {}
    for record in tail:
        terms = loss_terms(record)
        for name, level in chance_levels(record).items():
            if level > 0 and math.isfinite(terms.get(name, math.nan)):
                shares.setdefault(name, []).append(terms[name] / level)
    return {name: _mean(values) for name, values in shares.items()}


def _rank(history: History) -> dict[str, Any] | None:
    _, values = series(history.records.evaluations, "rank")
    return {"first": values[0], "last": values[-1]} if values else None


def _line(x: Any, y: list[float]) -> float:
    """Slope of the least-squares line."""
    return float(np.polyfit(np.asarray(x, dtype=float), np.asarray(y, dtype=float), 1)[0])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
