"""Running a study: every cell with every seed, resumable at any point."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hjepa.config import Config, flat_values, load_config
from hjepa.errors import UserError
from hjepa.evaluation import evaluate
from hjepa.research.budget import Cell, plan_cells
from hjepa.research.plot import draw_study
from hjepa.research.study import Study, load_study, slug
from hjepa.research.summary import format_study, markdown, summarise
from hjepa.training import run_training
from hjepa.training.run_folder import environment, write_atomically

if TYPE_CHECKING:
    import torch

log = logging.getLogger("hjepa")

# What a run may differ in from the study's plan without being another experiment.
_IRRELEVANT = (
    "device",
    "data.data_path",
    "data.download",
    "data.num_workers",
    "data.pin_memory",
    "logging",
    "checkpoint",
)
# Written into every run: evaluation is the study's own, and a hundred event files help nobody.
_RUN_KEYS = {"evaluation.final": False, "logging.tensorboard.enabled": False, "logging.wandb.enabled": False}


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended.

    Attributes:
        folder: where everything lies.
        results: contents of ``results.json``.
        completed: whether every run is done.
        interrupted: whether it was stopped on request.
    """

    folder: Path
    results: dict[str, Any]
    completed: bool
    interrupted: bool = False


def run_study(
    source: str | Path | Mapping[str, Any],
    *,
    output_dir: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    cells: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    dry_run: bool = False,
    console: bool = True,
) -> StudyOutcome:
    """Train and evaluate every cell of a study with every seed, and sum up.

    Runs go seed by seed, so that a study that is stopped early is still one of pairs. A run that is done is kept, one
    that was stopped goes on where it was; results so far are written after every run.

    Args:
        source: YAML file, name of a study that ships with the package, or a mapping.
        output_dir: the study's folder; ``runs/studies/<name>`` when not given. It gets ``study.yaml``,
            ``results.json``, ``results.md``, ``results.png`` and a run folder per cell and seed.
        seeds, cells: only these, in this order.
        overrides: dotted keys changed in every cell, for example to bring in one's own images.
        device: where to train.
        dry_run: only plan: check every cell and count images and FLOP.
        console: show progress on standard output.

    Raises:
        UserError: a mistake in the study, or a folder that holds other runs.
    """
    name, study = load_study(source)
    if seeds:
        study = study.model_copy(update={"seeds": list(seeds)})
    common = {**(overrides or {}), **({} if device is None else {"device": device}), **_RUN_KEYS}
    planned = _chosen(plan_cells(study, name, common), cells, name)
    folder = Path(output_dir) if output_dir is not None else Path("runs") / "studies" / name
    runs: dict[str, list[dict[str, Any]]] = {cell.name: [] for cell in planned}
    if dry_run:
        return StudyOutcome(folder, summarise(study, planned, runs, None, None), completed=False)
    _prepare(folder, study, overrides)
    about = _environment(planned[0].config)
    controls: dict[str, Any] | None = None
    completed = True
    for seed in study.seeds:
        for cell in planned:
            run = _Run(folder / "cells" / slug(cell.name) / f"seed_{seed}", cell, seed, tuple(study.depths))
            if console:
                print(f"\n{name}: cell {cell.name!r}, seed {seed}", flush=True)
            # The pixels are the same for every cell; the untrained encoder is that of the reference.
            full = cell.name == study.reference_cell and seed == study.seeds[0]
            outcome = run.complete(full=full, console=console)
            if outcome is None:
                return StudyOutcome(folder, _write(folder, study, planned, runs, controls, about), False, True)
            completed &= "failed" not in outcome
            runs[cell.name].append(outcome)
            controls = outcome.get("controls") or controls
            results = _write(folder, study, planned, runs, controls, about)
            if console:
                print(format_study(results), flush=True)
    return StudyOutcome(folder, results, completed)


def _chosen(cells: list[Cell], names: Sequence[str] | None, study: str) -> list[Cell]:
    if not names:
        return cells
    known = {cell.name: cell for cell in cells}
    for name in names:
        if name not in known:
            raise UserError(f"--cells: {name!r} is not a cell of {study}; cells are {', '.join(map(repr, known))}")
    return [known[name] for name in dict.fromkeys(names)]


def _prepare(folder: Path, study: Study, overrides: Mapping[str, Any] | None) -> None:
    tree = study.model_dump(mode="json")
    tree["overrides"] = {**tree["overrides"], **(overrides or {})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "study.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output-dir") from None


def _environment(config: Config) -> dict[str, Any]:
    from hjepa.training.device import resolve_device

    device: torch.device = resolve_device(config.device)
    return environment(config, device, 1)


def _write(
    folder: Path,
    study: Study,
    cells: list[Cell],
    runs: dict[str, list[dict[str, Any]]],
    controls: dict[str, Any] | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    results = summarise(study, cells, runs, controls, about)
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_atomically(folder / "results.md", markdown(results))
    picture = draw_study(results)
    if picture is not None:
        temporary = folder / f".results.png.{os.getpid()}"
        temporary.write_bytes(picture)
        temporary.replace(folder / "results.png")
    return results


@dataclass(frozen=True)
class _Run:
    """One cell at one seed."""

    folder: Path
    cell: Cell
    seed: int
    depths: tuple[int, ...]

    @property
    def config(self) -> Config:
        tree = self.cell.config.model_dump(mode="json")
        return load_config(tree, {"seed": self.seed, "logging.experiment_name": slug(self.cell.name)})

    @property
    def _place(self) -> str:
        """Where the run lies within the study's folder, which may be moved or published."""
        return self.folder.relative_to(self.folder.parents[2]).as_posix()

    def complete(self, *, full: bool, console: bool) -> dict[str, Any] | None:
        """Train and evaluate as far as that is still to do; nothing when stopped on request."""
        config = self.config
        self._check_same(config)
        done = self._stored(full)
        if done is not None:
            return done
        try:
            outcome = run_training(config, output_dir=self.folder, resume="auto", console=console)
            if outcome.interrupted:
                return None
            results = evaluate(
                self.folder,
                depths=self.depths or None,
                controls=("untrained", "pixels", "pca") if full else (),
                device=config.device,
            )
        except UserError as error:
            # A cell that diverges is a result of the study, not the end of it.
            log.warning("cell %r, seed %d failed: %s", self.cell.name, self.seed, error)
            return {"seed": self.seed, "failed": str(error), "folder": self._place}
        return self._record(results)

    def _check_same(self, config: Config) -> None:
        written = self.folder / "config.yaml"
        if not written.is_file():
            return
        before, now = _relevant(load_config(written)), _relevant(config)
        changed = [f"{key} {before.get(key)} -> {value}" for key, value in now.items() if before.get(key) != value]
        if changed:
            raise UserError(
                f"{self.folder}: holds a run with other settings ({', '.join(changed[:3])}); choose another --output-dir, "
                "or delete that folder"
            )

    def _stored(self, full: bool) -> dict[str, Any] | None:
        file = self.folder / "results.json"
        if not file.is_file():
            return None
        results = json.loads(file.read_text(encoding="utf-8"))
        lacking = (full and "pixels" not in results.get("linear_probe", {})) or (
            results.get("depths", []) != sorted(set(self.depths))
        )
        return None if lacking else self._record(results)

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
        record["train_images"], record["test_images"] = results["train_images"], results["test_images"]
        record["chance"], record["description"] = results["chance"], results["description"]
        record["commit"] = results["commit"]
        return record


def _relevant(config: Config) -> dict[str, Any]:
    flat = flat_values(config)
    return {
        key: value for key, value in flat.items() if not any(key == p or key.startswith(f"{p}.") for p in _IRRELEVANT)
    }
