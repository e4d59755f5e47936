"""The health light over a run: when it changed, and which figures crossed which limits."""

from __future__ import annotations

from typing import Any

from hjepa.analysis.history import History
from hjepa.health.light import Light


def lights(history: History) -> dict[str, Any]:
    """The light and its reasons.

    Returns:
        ``light`` at the end; ``recorded``: whether the run recorded it, or it was judged here from its records;
        ``course``: stretches of one light with ``from`` and ``to`` step; ``signs``: for each figure that was not green its
        ``worst`` light, ``value`` and ``limit``, in how many readings and at which steps it was first and last seen, and
        whether it is there ``now``; ``actions`` taken.
    """
    marked = [
        (int(r["step"]), str(r["health"])) for r in history.records.train + history.records.evaluations if "health" in r
    ]
    recorded = bool(marked)
    if not recorded:
        marked = [
            (step, str(max((sign.light for sign in signs), default=Light.GREEN))) for step, signs in history.signs
        ]
    marked.sort(key=lambda pair: pair[0])
    course: list[dict[str, Any]] = []
    for step, light in marked:
        if not course or course[-1]["light"] != light:
            course.append({"light": light, "from": step, "to": step})
        course[-1]["to"] = step
    return {
        "light": course[-1]["light"] if course else None,
        "recorded": recorded,
        "course": course,
        "signs": _signs(history),
        "actions": [
            {"step": int(r["at"]), "actions": r["actions"], "signs": r.get("signs", [])} for r in history.records.health
        ],
    }


def _signs(history: History) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    last = _last_readings(history)
    for step, signs in history.signs:
        for sign in signs:
            entry = found.setdefault(
                (sign.figure, sign.where),
                {
                    "figure": sign.figure,
                    "where": sign.where,
                    "worst": str(sign.light),
                    "value": sign.value,
                    "limit": sign.limit,
                    "rule": sign.rule,
                    "text": sign.text,
                    "first": step,
                    "last": step,
                    "readings": 0,
                },
            )
            entry["readings"] += 1
            entry["last"] = step
            if sign.light >= Light[entry["worst"].upper()]:
                entry |= {
                    "worst": str(sign.light),
                    "value": sign.value,
                    "limit": sign.limit,
                    "rule": sign.rule,
                    "text": sign.text,
                }
    for entry in found.values():
        entry["now"] = entry["last"] in last
    order = {"red": 0, "amber": 1, "green": 2}
    return sorted(found.values(), key=lambda e: (not e["now"], order[e["worst"]], e["figure"], e["where"]))


def _last_readings(history: History) -> set[int]:
    """Steps of the last record and of the last evaluation."""
    kinds = (history.records.train, history.records.evaluations)
    return {int(records[-1]["step"]) for records in kinds if records}
