"""Read ``metrics.jsonl`` and the JSON files of a run folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hjepa.errors import UserError


@dataclass(frozen=True)
class Records:
    """The records of a run, in order of steps.

    Attributes:
        train: of logging intervals.
        evaluations: of online evaluations.
        unreadable: number of lines that are not valid JSON (a killed run may leave a partial line).
        health: of actions on a red light, in the order in which they were taken.
        untrained: measures of the untrained encoder; None in runs of earlier versions.
        early_stop: why and where `training.early_stopping` ended the run; None if it went on since, or was not ended.
    """

    train: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0
    health: list[dict[str, Any]] = field(default_factory=list)
    untrained: dict[str, Any] | None = None
    early_stop: dict[str, Any] | None = None

    def until(self, step: int) -> Records:
        """The records up to a step, for an earlier checkpoint."""
        return Records(
            [r for r in self.train if r["step"] <= step],
            [r for r in self.evaluations if r["step"] <= step],
            self.unreadable,
            [r for r in self.health if r["at"] <= step],
            self.untrained,
            self.early_stop if self.early_stop is not None and self.early_stop["step"] <= step else None,
        )

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimiser steps per epoch; None without records."""
        last = next((r for r in reversed(self.train + self.evaluations) if r.get("epoch")), None)
        return None if last is None else last["step"] / last["epoch"]

    @property
    def seconds(self) -> float | None:
        """Seconds of training so far; None without records."""
        times = [r["time"] for r in self.train + self.evaluations if "time" in r]
        return max(times) if times else None

    def skipped_updates(self) -> int:
        """Number of updates skipped because the gradient was not finite."""
        return max((int(r.get("skipped", 0)) for r in self.train), default=0)


def series(records: list[dict[str, Any]], key: str, x: str = "step") -> tuple[list[float], list[float]]:
    """One quantity over the run, as positions and values; records without a finite value are left out."""
    points = [(r[x], r[key]) for r in records if r.get(key) is not None and math.isfinite(r[key])]
    return [p[0] for p in points], [p[1] for p in points]


def level_keys(records: list[dict[str, Any]], prefix: str) -> list[str]:
    """Keys like ``loss/level_0`` in the records, sorted by level."""
    found = {key for r in records for key in r if key.startswith(f"{prefix}/level_")}
    return sorted(found, key=lambda key: int(key.rpartition("_")[2]))


def read_records(path: Path) -> Records:
    """Read ``metrics.jsonl``; a missing file means no records.

    If a resumed run wrote a step twice, the later record counts. Records between a rewind and the step it went back to
    are left out.

    Raises:
        UserError: the file exists but cannot be read.
    """
    if not path.is_file():
        return Records()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    by_kind: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}, "untrained": {}, "early_stop": {}}
    health: list[dict[str, Any]] = []
    unreadable = 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            step = int(record["step"])
            if record["kind"] == "health":
                health.append(record)
                if "rewind" in record["actions"]:
                    # The run went back to this step: what it wrote later is no part of its course.
                    by_kind = {kind: {s: r for s, r in found.items() if s <= step} for kind, found in by_kind.items()}
                continue
            by_kind.setdefault(record["kind"], {})[step] = record
        except (ValueError, KeyError, TypeError):
            unreadable += 1
    train, evaluations = ([by_kind[kind][step] for step in sorted(by_kind[kind])] for kind in ("train", "eval"))
    last = max([record["step"] for record in train + evaluations], default=0)
    stopped = by_kind["early_stop"].get(last)
    return Records(train, evaluations, unreadable, health, by_kind["untrained"].get(0), stopped)


def read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    """Read a JSON object; None if the file does not exist.

    Args:
        path: the file.
        remedy: what to do about a broken file, for the error message.

    Raises:
        UserError: the file exists but is not a JSON object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; {remedy}")
    return content
