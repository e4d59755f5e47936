"""The runs in a study's folder: read those that are done, run the others, and reject those with other settings."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hjepa.config import Config, flat_values, load_config
from hjepa.data import Split
from hjepa.errors import DivergenceError, UserError
from hjepa.evaluation import evaluate
from hjepa.evaluation.results import results_name
from hjepa.research.budget import Cell
from hjepa.research.study import Study, slug
from hjepa.research.summary import summarise
from hjepa.training import run_training

log = logging.getLogger("hjepa")

# Keys in which a run may differ from the study's plan, since they do not affect its results.
_IRRELEVANT = (
    "device",
    "data.download",
    "data.num_workers",
    "data.pin_memory",
    "logging",
    "checkpoint",
)


class Ledger:
    """The runs in a study's folder, as evaluated on one split.

    Attributes:
        runs: records by cell and seed.
        controls: scores of the untrained encoder and raw pixels; None until a run of the reference was evaluated with
            them.
        split: split that the runs are evaluated on.
        folder: the study's folder.
    """

    def __init__(self, folder: Path, study: Study, cells: list[Cell], split: Split = "validation") -> None:
        self.study = study
        self.cells = cells
        self.runs: dict[str, dict[int, dict[str, Any]]] = {cell.name: {} for cell in cells}
        self.controls: dict[str, Any] | None = None
        self.folder = folder
        self.split = split

    def run(self, cell: Cell, seed: int) -> StudyRun:
        """A run of this study, done or not."""
        folder = self.folder / "cells" / slug(cell.name) / f"seed_{seed}"
        return StudyRun(folder, cell, seed, tuple(self.study.depths), self.split)

    def read(self) -> None:
        """Read all finished runs in the folder, including seeds that this call does not request."""
        for cell in self.cells:
            for place in (self.folder / "cells" / slug(cell.name)).glob("seed_*"):
                number = place.name.removeprefix("seed_")
                record = self.run(cell, int(number)).stored(full=False) if number.isdecimal() else None
                if record is not None:
                    self.add(cell.name, record)

    @property
    def seeds(self) -> list[int]:
        """Seeds of all runs."""
        return sorted({seed for found in self.runs.values() for seed in found})

    def add(self, cell: str, record: dict[str, Any]) -> None:
        """Add the record of a run."""
        self.runs[cell][record["seed"]] = record
        if cell == self.study.reference_cell:
            self.controls = self.controls or record.get("controls")

    def results(self, about: dict[str, Any]) -> dict[str, Any]:
        """Summary of all runs so far."""
        cells = [cell for cell in self.cells if self.runs[cell.name]]
        runs = {name: [found[seed] for seed in sorted(found)] for name, found in self.runs.items()}
        study = self.study.model_copy(update={"seeds": self.seeds})
        return summarise(study, cells, runs, self.controls, about, self.split)


@dataclass(frozen=True)
class StudyRun:
    """One cell with one seed, evaluated on one split."""

    folder: Path
    cell: Cell
    seed: int
    depths: tuple[int, ...]
    split: Split = "validation"

    @property
    def config(self) -> Config:
        """The cell's configuration with this seed."""
        tree = self.cell.config.model_dump(mode="json")
        return load_config(tree, {"seed": self.seed, "logging.experiment_name": slug(self.cell.name)})

    @property
    def _place(self) -> str:
        """Path of the run relative to the study's folder, which may be moved or published."""
        return self.folder.relative_to(self.folder.parents[2]).as_posix()

    def complete(self, *, full: bool, console: bool) -> dict[str, Any] | None:
        """Train and evaluate the run unless that is done; None if stopped on request."""
        done = self.stored(full=full)
        if done is not None:
            return done
        config = self.config
        try:
            outcome = run_training(config, output_dir=self.folder, resume="auto", console=console)
            if outcome.interrupted:
                return None
            results = evaluate(
                self.folder,
                split=self.split,
                depths=self.depths or None,
                controls=("untrained", "pixels", "pca") if full else (),
                device=config.device,
                console=console,
            )
        except DivergenceError as error:
            # A diverged run is a result; the study continues.
            log.warning("cell %r, seed %d failed: %s", self.cell.name, self.seed, error)
            return {"seed": self.seed, "failed": str(error), "folder": self._place}
        return self._record(results)

    def check_same(self) -> None:
        """Reject a folder that holds a run with other settings.

        Raises:
            UserError: the message names the folder and the settings that differ.
        """
        changed = self._differences()
        if changed:
            raise UserError(
                f"{self.folder}: holds a run with other settings ({', '.join(changed[:3])}); choose another --output-dir, "
                "or delete that folder"
            )

    def _differences(self) -> list[str]:
        written = self.folder / "config.yaml"
        if not written.is_file():
            return []
        before, now = _relevant(load_config(written)), _relevant(self.config)
        return [f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]

    def stored(self, *, full: bool) -> dict[str, Any] | None:
        """The record of a finished run; None if it is unfinished or has other settings.

        Args:
            full: whether the record must include controls.
        """
        file = self.folder / results_name(self.split)
        if not file.is_file() or self._differences():
            return None
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            probe = results["linear_probe"]
            lacking = (full and not {"pixels", "skipped"} & probe.keys()) or (
                results.get("depths", []) != sorted(set(self.depths))
            )
            return None if lacking else self._record(results)
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            log.warning("%s: damaged; evaluating the run again", file)
            return None

    def _record(self, results: dict[str, Any]) -> dict[str, Any]:
        """The study's record of a run."""
        records = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        last = [r for r in map(json.loads, records) if r["kind"] == "train"][-1]
        record: dict[str, Any] = {"seed": self.seed, "folder": self._place, "seconds": last["time"]}
        for kind in ("linear_probe", "knn"):
            scores = results[kind]
            if "skipped" in scores:
                continue
            record[f"{kind}/all"] = scores["trained"]
            record[f"{kind}/last"] = scores["levels"][-1]["trained"]
            if "trained_depths" in scores:
                record[f"{kind}/depths"] = scores["trained_depths"]
            if "pixels" in scores:
                record.setdefault("controls", {})[kind] = {
                    key: scores[key] for key in ("untrained", "untrained_depths", "pixels", "pca") if key in scores
                } | {"untrained_last": scores["levels"][-1]["untrained"]}
        record["rank"] = results["rank"]["trained"]
        record["split"], record["images"], record["train_images"] = (
            self.split,
            _images(results),
            results["train_images"],
        )
        record["chance"], record["description"] = results["chance"], results["description"]
        record["commit"] = results["commit"]
        return record


def _images(results: dict[str, Any]) -> int:
    # Older files count test images only.
    return int(results["images"] if "images" in results else results["test_images"])


def _relevant(config: Config) -> dict[str, Any]:
    flat = flat_values(config)
    return {
        key: value for key, value in flat.items() if not any(key == p or key.startswith(f"{p}.") for p in _IRRELEVANT)
    }
