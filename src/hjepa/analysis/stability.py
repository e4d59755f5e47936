"""How smoothly a run trained: skipped updates, jumps of gradient and loss, restarts, and every term beside its past."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from hjepa.analysis.history import History, chance_levels, loss_terms

# Records before that a value is compared with.
_WINDOW, _FEWEST = 20, 5
# A loss that is so many times the median of the records before it is a spike.
_SPIKE = 1.5
_MOST_LISTED = 20


def stability(history: History) -> dict[str, Any] | None:
    """What was irregular; None without records.

    Returns:
        ``skipped`` updates; ``not_finite``: whether a loss, a gradient or features were; ``gradient``: ``median``,
        ``largest``, its ``step`` and ``jumps`` over `health.gradient` times the median before; ``loss_spikes``; the
        steps at which it ``resumed``; ``rewinds`` by health.
    """
    train = history.records.train
    if not train:
        return None
    limit = history.config.health.gradient[0]
    norms = [(int(r["step"]), r["grad_norm"]) for r in train if _finite(r.get("grad_norm"))]
    losses = [(int(r["step"]), r["loss"]) for r in train if _finite(r.get("loss"))]
    spikes, jumps = _jumps(losses, _SPIKE), _jumps(norms, limit)
    largest = max(norms, key=lambda pair: pair[1], default=None)
    return {
        "skipped": history.records.skipped_updates(),
        "not_finite": any("loss" in r and not _finite(r["loss"]) for r in train)
        or any(sign.figure == "finite" for _, signs in history.signs for sign in signs),
        "gradient": None
        if largest is None
        else {
            "median": median(norm for _, norm in norms),
            "largest": largest[1],
            "step": largest[0],
            "jumps": jumps[:_MOST_LISTED],
        },
        "loss_spikes": spikes[:_MOST_LISTED],
        "number_of_spikes": len(spikes),
        "resumed": history.resumed,
        "rewinds": sum("rewind" in r.get("actions", []) for r in history.records.health),
    }


def _jumps(points: list[tuple[int, float]], factor: float) -> list[dict[str, float]]:
    """Points above ``factor`` times the median of those before them."""
    found = []
    for number, (step, value) in enumerate(points):
        before = [v for _, v in points[max(0, number - _WINDOW) : number]]
        usual = median(before) if len(before) >= _FEWEST else 0.0
        if usual > 0 and value > factor * usual:
            found.append({"step": step, "value": value, "ratio": value / usual})
    return found


def terms(history: History) -> list[dict[str, Any]]:
    """Every term of the loss beside its own past.

    Levels are given as shares of their chance level, since a loss falls with the spread of its targets.

    Returns:
        for each term its ``name``, whether it is ``over_chance``, its ``first``, ``lowest`` and ``last`` value (means of a
        twentieth of the records), and ``rise``: last over lowest.
    """
    train = history.records.train
    names = list(dict.fromkeys(name for record in train for name in loss_terms(record)))
    found = []
    for name in names:
        values, relative = [], False
        for record in train:
            value = loss_terms(record).get(name, math.nan)
            level = chance_levels(record).get(name, 0.0)
            relative |= level > 0
            values.append(value / level if level > 0 else value)
        values = [value for value in values if math.isfinite(value)]
        if not values:
            continue
        smooth = _smoothed(values)
        lowest, last = min(smooth), smooth[-1]
        found.append(
            {
                "name": name,
                "over_chance": relative,
                "first": smooth[0],
                "lowest": lowest,
                "last": last,
                "rise": last / lowest if lowest > 0 else None,
            }
        )
    return found


def _smoothed(values: list[float]) -> list[float]:
    """Means over a twentieth of the records, at least one."""
    width = max(1, len(values) // 20)
    return [sum(values[i : i + width]) / width for i in range(0, len(values) - width + 1, width)]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
