"""Everything that the files of a run say about its course, whether it is running, finished, stopped or broken."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal

from hjepa.config import Config, Geometry, load_config
from hjepa.errors import UserError
from hjepa.health.course import Course, Interval
from hjepa.health.evidence import Evidence
from hjepa.health.light import Sign
from hjepa.runs.records import Records, level_keys, read_json, read_records
from hjepa.zoo.files import is_packed, shipped_models

Status = Literal["running", "finished", "stopped early", "stopped", "not started"]

# A run that has written nothing for so many of its usual intervals, and so many seconds, has stopped.
_INTERVALS, _SECONDS = 5, 60.0
_FINISHED = 0.999
_SIZE = re.compile(r": (\d+) images;")


@dataclass(frozen=True)
class History:
    """What a run folder holds.

    Attributes:
        folder: the run folder.
        config: the configuration.
        records: ``metrics.jsonl``.
        environment: ``environment.json``; empty if missing.
        results: ``results.json``, or ``results_validation.json`` if there is no other; None without either.
        log: lines of ``training.log``.
        written: when the run last wrote a file, in seconds since 1970; None if it has not.
        missing: what the folder lacks, in words.
    """

    folder: Path
    config: Config
    records: Records
    environment: dict[str, Any]
    results: dict[str, Any] | None
    log: list[str]
    written: float | None
    missing: list[str] = field(default_factory=list)

    @cached_property
    def geometry(self) -> Geometry:
        """Sizes of the model."""
        return self.config.geometry()

    @property
    def step(self) -> int:
        """The last step that was recorded."""
        return max([0, *(int(r["step"]) for r in self.records.train + self.records.evaluations)])

    @property
    def epoch(self) -> float:
        """The last epoch that was recorded, with its fraction."""
        return max([0.0, *(float(r.get("epoch", 0.0)) for r in self.records.train + self.records.evaluations)])

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run; None without records."""
        per_epoch = self.records.steps_per_epoch
        return None if per_epoch is None else round(per_epoch * self.config.training.epochs)

    def status(self, now: float | None = None) -> Status:
        """Whether the run is finished, still writing, or stopped; told from its records and the age of its files."""
        total = self.total_steps
        if total is None:
            return "running" if self._fresh(now) else "not started"
        if self.step >= _FINISHED * total:
            return "finished"
        if self.stopped_early is not None:
            return "stopped early"
        return "running" if self._fresh(now) and not self._ended else "stopped"

    @property
    def stopped_early(self) -> str | None:
        """Why early stopping ended the run, from the log; None if it did not, or if the run was resumed since."""
        for line in reversed(self.log):
            if "resuming from step" in line:
                return None
            found = re.search(r"stopped early at step \d+ of \d+: (.*?)( \(training\.early_stopping\))?$", line)
            if found:
                return found[1]
        return None

    @property
    def _ended(self) -> bool:
        """Whether the log says that the run stopped by itself."""
        return any(" stopped at step " in line for line in self.log[-3:])

    def _fresh(self, now: float | None) -> bool:
        if self.written is None:
            return False
        age = (time.time() if now is None else now) - self.written
        times = [float(r["time"]) for r in self.records.train if "time" in r]
        gaps = [b - a for a, b in itertools.pairwise(times) if b > a]
        return age < max(_SECONDS, _INTERVALS * (median(gaps) if gaps else 0.0))

    @property
    def resumed(self) -> list[int]:
        """Steps at which the run was resumed."""
        found = (re.search(r"resuming from step (\d+)", line) for line in self.log)
        return [int(match[1]) for match in found if match]

    @property
    def images(self) -> int | None:
        """Training images, from the log; None if it does not say."""
        found = next((match for line in self.log if (match := _SIZE.search(line))), None)
        return None if found is None else int(found[1])

    @cached_property
    def signs(self) -> list[tuple[int, list[Sign]]]:
        """What was not green at every record and evaluation, judged again from the records by the limits of the run.

        Signs of features are taken from the evaluations, where they were judged in training.
        """
        course = Course(self.config.health, infonce=self.config.loss.type == "infonce")
        total = self.total_steps or 1
        found: list[tuple[int, list[Sign]]] = []
        merged = [("train", r) for r in self.records.train] + [("eval", r) for r in self.records.evaluations]
        for kind, record in sorted(merged, key=lambda item: (int(item[1]["step"]), item[0] == "eval")):
            if kind == "train":
                signs = course.record(self._interval(record, total))
            else:
                signs = [Sign.from_dict(sign) for sign in record.get("signs", [])]
                if record.get("knn") is not None:
                    fall = course.evaluation(float(record["knn"]), int(record.get("knn_queries", 0)))
                    signs = [sign for sign in signs if sign.figure != "knn"] + fall
            found.append((int(record["step"]), signs))
        return found

    def _interval(self, record: Mapping[str, Any], total: int) -> Interval:
        return Interval(
            terms=loss_terms(record),
            chance=chance_levels(record),
            gradient=record.get("grad_norm"),
            progress=min(1.0, int(record["step"]) / total),
            warm=float(record.get("epoch", 0.0)) >= self.config.training.warmup_epochs,
        )

    def measures(self, at: int = -1) -> list[dict[str, float | None]]:
        """By level, each measure of the features at an evaluation as a share of the untrained encoder's.

        ``rank``, ``lidar``, ``spread``, ``distance`` (1 - cosine) and ``content`` (1 - position). None where either is
        missing; empty without evaluations or without the untrained encoder.

        Args:
            at: number of the evaluation, the last by default.
        """
        before = self.records.untrained
        if before is None or not self.records.evaluations:
            return []
        now = self.records.evaluations[at]
        levels = len(level_keys([now], "rank")) or len(level_keys([now], "std"))
        return [
            {
                "rank": _share(now, before, f"rank/level_{level}"),
                "lidar": _share(now, before, f"lidar/level_{level}"),
                "spread": _share(now, before, f"std/level_{level}"),
                "distance": _share(now, before, f"cosine/level_{level}", rest=True),
                "content": _share(now, before, f"position/level_{level}", rest=True),
            }
            for level in range(levels)
        ]

    def position(self) -> list[float | None]:
        """By level, the share of the variance of cell features that position explains, at the last evaluation."""
        if not self.records.evaluations:
            return []
        last = self.records.evaluations[-1]
        return [last.get(key) for key in level_keys([last], "position")]

    def evidence(self) -> Evidence:
        """What the rules of `hjepa.health` judge."""
        return Evidence(
            config=self.config,
            width=self.geometry.embed_dim,
            step=self.step,
            records=self.records,
            results=self.results,
            run=str(self.folder),
            position=self.position(),
        )


def loss_terms(record: Mapping[str, Any]) -> dict[str, float]:
    """The loss and its terms in a record of training, by name; NaN for one that was not finite.

    A record lists them between its time and its learning rate, together with chance levels.
    """
    names = list(record)
    start = names.index("time") + 1 if "time" in names else names.index("loss") if "loss" in names else len(names)
    stop = names.index("lr") if "lr" in names else len(names)
    return {
        name: float("nan") if record[name] is None else float(record[name])
        for name in names[start:stop]
        if not name.startswith("chance/") and (record[name] is None or isinstance(record[name], (int, float)))
    }


def chance_levels(record: Mapping[str, Any]) -> dict[str, float]:
    """Chance levels in a record of training, by the name of their term."""
    return {
        f"loss/{name.removeprefix('chance/')}": float(value)
        for name, value in record.items()
        if name.startswith("chance/") and isinstance(value, (int, float))
    }


def find_run(path: str | Path) -> Path:
    """The run folder of a run, or of a checkpoint in it.

    Raises:
        UserError: there is none, or a packed model was given, which has no records.
    """
    given = Path(path)
    if (given / "config.yaml").is_file() and not is_packed(given):
        return given
    for folder in (given.parent, given.parent.parent):
        if given.exists() and given.name != "" and given.suffix == ".pth" and (folder / "config.yaml").is_file():
            return folder
    if given.name == "checkpoints" and (given.parent / "config.yaml").is_file():
        return given.parent
    if (given.is_dir() and is_packed(given)) or (not given.exists() and str(path) in shipped_models()):
        raise UserError(f"{path}: a packed model has no training records; give the run folder")
    if not given.exists():
        raise UserError(f"{path}: no such run folder")
    raise UserError(f"{path}: not a run folder, it has no config.yaml; give the --output-dir of hjepa train")


def read_history(path: str | Path) -> History:
    """Read a run folder; files that are missing or partly written are no error.

    Raises:
        UserError: no run folder, or a configuration that cannot be read.
    """
    folder = find_run(path)
    config = load_config(folder / "config.yaml")
    records = read_records(folder / "metrics.jsonl")
    environment = read_json(folder / "environment.json", "delete the file; nothing else depends on it") or {}
    again = f"evaluate again with `hjepa evaluate --checkpoint {folder}`"
    results = read_json(folder / "results.json", again) or read_json(folder / "results_validation.json", again)
    log = _lines(folder / "training.log")
    files = [folder / name for name in ("metrics.jsonl", "training.log", "environment.json")]
    times = [file.stat().st_mtime for file in files if file.is_file()]
    return History(
        folder, config, records, environment, results, log, max(times, default=None), _missing(records, results, log)
    )


def _missing(records: Records, results: dict[str, Any] | None, log: list[str]) -> list[str]:
    checks = [
        (not records.train, "records of training (`metrics.jsonl`): no losses, speed or gradients"),
        (not records.evaluations, "online evaluations: no k-NN and no measures of the features"),
        (
            bool(records.evaluations) and records.untrained is None,
            "measures of the untrained encoder (written since health was added): ranks are not compared with step 0",
        ),
        (
            bool(records.evaluations) and not any("knn" in r for r in records.evaluations),
            "k-NN: the images have no labels",
        ),
        (
            bool(records.train) and not any("health" in r for r in records.train),
            "the health light: judged here again, from losses and gradients alone",
        ),
        (results is None, "`results.json`: not compared with controls"),
        (not log, "`training.log`: restarts are not known"),
        (records.unreadable > 0, f"{records.unreadable} line(s) of `metrics.jsonl`, which cannot be read"),
    ]
    return [text for lacks, text in checks if lacks]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _share(now: Mapping[str, Any], before: Mapping[str, Any], key: str, *, rest: bool = False) -> float | None:
    value, normal = now.get(key), before.get(key)
    if value is None or normal is None:
        return None
    if rest:
        value, normal = 1 - value, 1 - normal
    return float(value / normal) if normal > 0 else None
