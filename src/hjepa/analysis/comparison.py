"""Several runs side by side: the keys in which they differ, and what each reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.analysis.convergence import convergence
from hjepa.analysis.diagnosis import Diagnosis, diagnose
from hjepa.analysis.history import History
from hjepa.analysis.lights import lights
from hjepa.analysis.speed import speed
from hjepa.config import flat_values
from hjepa.runs.records import level_keys

# Where a run writes says nothing about it.
_NO_DIFFERENCE = ("logging.experiment_name", "logging.log_dir", "checkpoint.checkpoint_dir", "logging.wandb")
_ENVIRONMENT = ("hjepa", "commit", "torch", "device_name", "processes", "threads")


@dataclass(frozen=True)
class Compared:
    """A run and what was measured of it.

    Attributes:
        name: as short as tells the runs apart.
        history: its files.
        diagnosis: its state.
        converged, fast, light: `convergence`, `speed` and `lights` of it.
    """

    name: str
    history: History
    diagnosis: Diagnosis
    converged: dict[str, Any]
    fast: dict[str, Any] | None
    light: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A quantity of all runs.

    Attributes:
        name: what it is.
        values: a number or text per run; None where it was not measured.
        kind: ``percent`` (0 to 1), ``number``, ``seconds`` or ``text``.
        better: 1 if larger is better, -1 if smaller is; 0 if neither, or if runs must not be chosen by it.
    """

    name: str
    values: list[Any]
    kind: str = "text"
    better: int = 0

    @property
    def best(self) -> set[int]:
        """Runs with the best value; empty if all have the same."""
        known = [value for value in self.values if value is not None]
        if not self.better or len(known) < 2 or len(set(known)) == 1:
            return set()
        top = max(known) if self.better > 0 else min(known)
        return {place for place, value in enumerate(self.values) if value == top}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "values": self.values, "kind": self.kind}


def compared(histories: Sequence[History]) -> list[Compared]:
    """Measure runs from their files."""
    names = short_names([history.folder for history in histories])
    return [
        Compared(name, history, diagnose(history), convergence(history), speed(history), lights(history))
        for name, history in zip(names, histories, strict=True)
    ]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def differences(runs: Sequence[Compared]) -> list[Row]:
    """Configuration keys whose values differ, then what differs in machine and software."""
    trees = [flat_values(run.history.config) for run in runs]
    keys = list(dict.fromkeys(key for tree in trees for key in tree))
    rows = []
    for key in keys:
        values = [_plain(tree.get(key)) for tree in trees]
        if any(value != values[0] for value in values) and not key.startswith(_NO_DIFFERENCE):
            rows.append(Row(key, [_shown(value) for value in values]))
    for name in _ENVIRONMENT:
        values = [run.history.environment.get(name) for run in runs]
        if any(value != values[0] for value in values):
            rows.append(Row(f"({name.replace('_', ' ')})", [None if v is None else str(v) for v in values]))
    return rows


def results(runs: Sequence[Compared]) -> list[Row]:
    """What the runs reached. Accuracies on test are shown, but none is marked as best: test must not choose."""
    rows = [
        Row("state", [run.diagnosis.headline for run in runs]),
        Row("status", [run.history.status() for run in runs]),
        Row("epochs", [run.history.epoch for run in runs], "number"),
        Row("steps", [run.history.step for run in runs], "number"),
        *_accuracies(runs),
        Row("online k-NN, last", [_of(run.converged["knn"], "last") for run in runs], "percent", 1),
        Row("online k-NN, best", [_of(run.converged["knn"], "best") for run in runs], "percent", 1),
        Row("effective rank, all levels", [_of(run.converged["rank"], "last") for run in runs], "number"),
        *_levels(runs),
        Row("health light at the end", [run.light["light"] for run in runs]),
        Row("images/s", [_of(_of(run.fast, "images_per_second"), "median") for run in runs], "number", 1),
        Row("time", [_of(run.fast, "seconds") for run in runs], "seconds"),
        Row("time per epoch", [_of(run.fast, "seconds_per_epoch") for run in runs], "seconds"),
        Row("waiting for data", [_of(_of(run.fast, "shares"), "waiting_for_data") for run in runs], "percent"),
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def _accuracies(runs: Sequence[Compared]) -> list[Row]:
    rows: list[Row] = []
    titles = {"linear_probe": "linear probe", "knn": "k-NN"}
    for split, better in (("validation", 1), ("test", 0)):
        found = [_split(run.history.results, split) for run in runs]
        for reading, title in titles.items():
            for who in ("trained", "untrained", "pixels"):
                beside = "" if who == "trained" else f", {who}"
                values = [_of(_of(scores, reading), who) for scores in found]
                rows.append(Row(f"{title} on {split}{beside}", values, "percent", better if who == "trained" else 0))
            count = max((len(_of(_of(scores, reading), "levels") or []) for scores in found), default=0)
            for level in range(count if count > 1 else 0):
                values = [_level_score(_of(_of(scores, reading), "levels"), level) for scores in found]
                rows.append(Row(f"{title} on {split}, level {level}", values, "percent", better))
    return [row for row in rows if any(value is not None for value in row.values)]


def _split(found: dict[str, Any] | None, split: str) -> dict[str, Any] | None:
    if found is None:
        return None
    if found.get("split", "test") == split:
        return found
    part = found.get(split)
    return part if isinstance(part, dict) else None


def _level_score(levels: list[dict[str, Any]] | None, level: int) -> Any:
    return next((entry.get("trained") for entry in levels or [] if entry.get("level") == level), None)


def _levels(runs: Sequence[Compared]) -> list[Row]:
    ratios = [run.history.evidence().loss_over_chance() for run in runs]
    lasts = [run.history.records.evaluations[-1] if run.history.records.evaluations else {} for run in runs]
    rows = []
    for level in sorted({level for found in ratios for level in found}):
        rows.append(Row(f"loss over chance, level {level}", [found.get(level) for found in ratios], "percent"))
    keys = sorted({key for last in lasts for key in level_keys([last], "rank")})
    rows += [
        Row(f"effective rank, {key[5:].replace('_', ' ')}", [last.get(key) for last in lasts], "number") for key in keys
    ]
    return rows


def _of(values: Any, key: str) -> Any:
    """A key of a mapping that may be missing; None then, and for entries that are no plain value."""
    found = values.get(key) if isinstance(values, dict) else None
    return None if isinstance(found, dict) and "skipped" in found else found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value) else value


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def text_of(row: Row, value: Any) -> str:
    """A value of a row as text; a dash for None."""
    from hjepa.analysis.wording import percent, time_text

    if value is None:
        return "-"
    if row.kind == "percent":
        # A loss may be millions of times its chance level.
        return percent(value) if abs(value) < 10 else f"{value:.2g} x"
    if row.kind == "seconds":
        return time_text(value)
    if row.kind == "number":
        return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    return str(value)
