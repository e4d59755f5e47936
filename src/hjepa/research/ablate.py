"""Run a study: every cell with every seed, resumable at any point."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hjepa.config import Config, load_config
from hjepa.errors import UserError
from hjepa.evaluation.results import results_name
from hjepa.research.budget import Cell, plan_cells
from hjepa.research.plot import draw_study
from hjepa.research.runs import Ledger, StudyRun
from hjepa.research.study import Study, check_seeds, load_study
from hjepa.research.summary import format_study, markdown, summarise
from hjepa.runtime.environment import environment
from hjepa.runtime.file_lock import exclusive
from hjepa.runtime.files import write_atomically

if TYPE_CHECKING:
    import torch

log = logging.getLogger("hjepa")

# Set in every run: the study itself evaluates, and does not need event files of every run.
_RUN_KEYS = {"evaluation.final": False, "logging.tensorboard.enabled": False, "logging.wandb.enabled": False}

STEMS = {"validation": "results", "test": "final"}
"""Names of a study's files by split, without extensions."""
_ABOUT = "# Cells are compared on validation images (results.*); --final reads test once (final.*).\n"


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended.

    Attributes:
        folder: the study's folder.
        results: contents of ``results.json``, or of ``final.json`` if test was requested.
        completed: whether every requested run is done and none diverged.
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
    base: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str | None = None,
    dry_run: bool = False,
    final: bool = False,
    console: bool = True,
) -> StudyOutcome:
    """Train and evaluate every cell of a study with every seed, and summarise the results.

    Runs are evaluated on validation images, by which cells can be chosen. Test is read only with ``final``, after all
    requested runs, and written separately (``final.json``, ``final.md``, ``final.png``). A run that was already
    evaluated on test is not evaluated on it again; the log says so.

    Runs are ordered by seed, so that a study that is stopped early still has paired runs. Finished runs are kept,
    stopped ones are resumed, and results are written after every run. The table has every finished run in the folder,
    requested or not, so that calls for different cells or seeds can share a folder at the same time.

    Args:
        source: YAML file, name of a study that ships with the package, or a mapping.
        output_dir: the study's folder; ``runs/studies/<name>`` when not given. It gets ``study.yaml``,
            ``results.json``, ``results.md``, ``results.png`` and a run folder per cell and seed.
        seeds, cells: train only these, in this order.
        base: preset or YAML file that every cell starts from, instead of the study's; runs the same study on another
            recipe.
        overrides: dotted keys changed in every cell, for example to use other images.
        device: where to train.
        dry_run: only check every cell and count images and FLOP.
        final: also read test, once.
        console: show progress on standard output.

    Raises:
        UserError: an invalid study, a folder that holds other runs, or an error that ends a training. A run that
            diverges is a result; the study continues.
    """
    name, study = load_study(source)
    if base is not None:
        study = study.model_copy(update={"base": str(base)})
    if seeds:
        check_seeds(seeds, "seeds")
        study = study.model_copy(update={"seeds": list(seeds)})
    if overrides and "seed" in overrides:
        raise UserError("seed: a study sets it for every run; choose them with --seeds, for example --seeds 0,1")
    common = {**(overrides or {}), **({} if device is None else {"device": device}), **_RUN_KEYS}
    every = plan_cells(study, name, common)
    folder = Path(output_dir) if output_dir is not None else Path("runs") / "studies" / name
    if dry_run:
        return StudyOutcome(folder, summarise(study, _chosen(every, cells, name), {}, None, None), completed=False)
    every = _with_precision(every, folder)
    planned = _chosen(every, cells, name)
    ledger = Ledger(folder, study, every)
    wanted = [(cell, seed) for seed in study.seeds for cell in planned]
    asked = [ledger.run(cell, seed) for cell, seed in wanted]
    for run in asked:
        run.check_same()
    ledger.read()
    _prepare(folder, study, sorted({*study.seeds, *ledger.seeds}), overrides)
    about = _environment(planned[0].config)
    for run in asked:
        if console:
            print(f"\n{name}: cell {run.cell.name!r}, seed {run.seed}", flush=True)
        # Controls are computed once, with the reference: pixels are the same for every cell.
        full = run.cell.name == study.reference_cell and ledger.controls is None
        record = run.complete(full=full, console=console)
        if record is None:
            return StudyOutcome(folder, _write(folder, ledger, about), False, True)
        ledger.add(run.cell.name, record)
        results = _write(folder, ledger, about)
        if console:
            print(format_study(results), flush=True)
    if final:
        test = Ledger(folder, study, every, "test")
        good = [(cell, seed) for cell, seed in wanted if "failed" not in ledger.runs[cell.name][seed]]
        found = _read_test(test, [test.run(cell, seed) for cell, seed in good], about, console)
        if found is None:
            return StudyOutcome(folder, results, False, True)
        results = found
    return StudyOutcome(folder, results, not any("failed" in ledger.runs[run.cell.name][run.seed] for run in asked))


def _read_test(ledger: Ledger, runs: Sequence[StudyRun], about: dict[str, Any], console: bool) -> dict[str, Any] | None:
    """Evaluate trained runs on test, each once; None if stopped on request."""
    ledger.read()
    before = [run for run in runs if run.seed in ledger.runs[run.cell.name]]
    if before:
        log.warning(
            "%d of %d runs were evaluated on test before; their results are kept",
            len(before),
            len(runs),
        )
    for run in runs:
        if run in before:
            continue
        if (run.folder / results_name("test")).is_file():
            log.warning(
                "%s: evaluating on test again: the earlier results are for other depths, or damaged", run.folder
            )
        full = run.cell.name == ledger.study.reference_cell and ledger.controls is None
        record = run.complete(full=full, console=console)
        if record is None:
            return None
        ledger.add(run.cell.name, record)
    results = _write(ledger.folder, ledger, about)
    if console:
        print(format_study(results), flush=True)
    return results


def _chosen(cells: list[Cell], names: Sequence[str] | None, study: str) -> list[Cell]:
    if not names:
        return cells
    known = {cell.name: cell for cell in cells}
    for name in names:
        if name not in known:
            raise UserError(f"--cells: {name!r} is not a cell of {study}; cells are {', '.join(map(repr, known))}")
    return [known[name] for name in dict.fromkeys(names)]


def _prepare(folder: Path, study: Study, seeds: list[int], overrides: Mapping[str, Any] | None) -> None:
    tree = study.model_dump(mode="json") | {"seeds": seeds}
    given = dict(overrides or {})
    tree["overrides"] |= given
    cells = study.all_cells()
    if any(key in given for keys in cells.values() for key in keys):
        # In a file, keys of a cell override shared keys; on the command line, overrides take precedence over both.
        tree["cells"] = {
            name: {key: given.get(key, value) for key, value in keys.items()} for name, keys in cells.items()
        }
        tree["grid"] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "study.yaml", _ABOUT + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output-dir") from None


def _with_precision(cells: list[Cell], folder: Path) -> list[Cell]:
    """Resolve `use_amp: auto`: runs that are compared use the same precision, that of the folder's first run."""
    from hjepa.runtime.device import resolve_device
    from hjepa.training.precision import settle_precision

    if all(cell.config.training.use_amp != "auto" for cell in cells):
        return cells
    before = {load_config(file).training.use_amp for file in folder.glob("cells/*/seed_*/config.yaml")}
    choice = before.pop() if len(before) == 1 else None
    device = resolve_device(cells[0].config.device)
    return [replace(cell, config=settle_precision(cell.config, device, choice)) for cell in cells]


def _environment(config: Config) -> dict[str, Any]:
    from hjepa.runtime.device import resolve_device

    device: torch.device = resolve_device(config.device)
    return environment(config, device, 1)


def _write(folder: Path, ledger: Ledger, about: dict[str, Any]) -> dict[str, Any]:
    # Another process may work on other cells or seeds in this folder: its runs are read again under the lock.
    with exclusive(folder / ".results.lock"):
        ledger.read()
        return _write_alone(folder, STEMS[ledger.split], ledger.results(about))


def _write_alone(folder: Path, stem: str, results: dict[str, Any]) -> dict[str, Any]:
    write_atomically(folder / f"{stem}.json", json.dumps(results, indent=2) + "\n")
    write_atomically(folder / f"{stem}.md", markdown(results))
    picture = draw_study(results)
    if picture is not None:
        temporary = folder / f".{stem}.png.{os.getpid()}"
        temporary.write_bytes(picture)
        temporary.replace(folder / f"{stem}.png")
    return results
