"""The runs of a study's folder: what is done, what is still to do, and what another experiment left there."""

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

# What a run may differ in from the study's plan without being another experiment.
_IRRELEVANT = (
    "device",
    "data.download",
    "data.num_workers",
    "data.pin_memory",
    "logging",
    "checkpoint",
)


class Ledger:
    """The runs of a study's folder, as they were read on one split.

    Attributes:
        runs: records by cell and seed.
        controls: what the untrained encoder and raw pixels reach, once a run of the reference was evaluated with them.
        split: what the runs are read on.
        folder: the study's.
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
        """Take in finished runs of other calls, also of seeds that this one does not ask for."""
        for cell in self.cells:
            for place in (self.folder / "cells" / slug(cell.name)).glob("seed_*"):
                number = place.name.removeprefix("seed_")
                record = self.run(cell, int(number)).stored(full=False) if number.isdecimal() else None
                if record is not None:
                    self.add(cell.name, record)

    @property
    def seeds(self) -> list[int]:
        """Of all runs."""
        return sorted({seed for found in self.runs.values() for seed in found})

    def add(self, cell: str, record: dict[str, Any]) -> None:
        """Enter a run."""
        self.runs[cell][record["seed"]] = record
        if cell == self.study.reference_cell:
            self.controls = self.controls or record.get("controls")

    def results(self, about: dict[str, Any]) -> dict[str, Any]:
        """Everything found so far."""
        cells = [cell for cell in self.cells if self.runs[cell.name]]
        runs = {name: [found[seed] for seed in sorted(found)] for name, found in self.runs.items()}
        study = self.study.model_copy(update={"seeds": self.seeds})
        return summarise(study, cells, runs, self.controls, about, self.split)


@dataclass(frozen=True)
class StudyRun:
    """One cell at one seed, read on one split."""

    folder: Path
    cell: Cell
    seed: int
    depths: tuple[int, ...]
    split: Split = "validation"

    @property
    def config(self) -> Config:
        """The cell's, with this seed."""
        tree = self.cell.config.model_dump(mode="json")
        return load_config(tree, {"seed": self.seed, "logging.experiment_name": slug(self.cell.name)})

    @property
    def _place(self) -> str:
        """Where the run lies within the study's folder, which may be moved or published."""
        return self.folder.relative_to(self.folder.parents[2]).as_posix()

    def complete(self, *, full: bool, console: bool) -> dict[str, Any] | None:
        """Train and evaluate as far as that is still to do; nothing when stopped on request."""
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
            # It is a result of the study, not the end of it.
            log.warning("cell %r, seed %d failed: %s", self.cell.name, self.seed, error)
            return {"seed": self.seed, "failed": str(error), "folder": self._place}
        return self._record(results)

    def check_same(self) -> None:
        """Refuse a folder that holds a run with other settings.

        Raises:
            UserError: it names the folder and what differs.
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
        """The record of a run that is done; none if there is still something to do, or it is another experiment.

        Args:
            full: whether controls belong to it.
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
            log.warning("%s: damaged; the run is evaluated again", file)
            return None

    def _record(self, results: dict[str, Any]) -> dict[str, Any]:
        """What the study keeps of a run."""
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
    # Files from before there was a choice of splits count test images only.
    return int(results["images"] if "images" in results else results["test_images"])


def _relevant(config: Config) -> dict[str, Any]:
    flat = flat_values(config)
    return {
        key: value for key, value in flat.items() if not any(key == p or key.startswith(f"{p}.") for p in _IRRELEVANT)
    }
