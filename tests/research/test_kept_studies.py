"""Studies published with their results still define the configurations that produced them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hjepa.config import flat_values, load_config
from hjepa.research.study import load_study

KEPT = Path(__file__).parents[2] / "docs" / "results" / "recipe"
# Keys that a study sets for its runs; seeds are checked below.
DECIDED = {"evaluation.final", "logging.tensorboard.enabled", "logging.experiment_name", "seed"}


def only_watches(key: str, config: dict[str, Any]) -> bool:
    """Online evaluation, and health with its limits, change nothing of a run unless an action is configured."""
    return key == "evaluation.eval_frequency" or (key.startswith("health.") and not config["health.actions"])


def with_results() -> list[str]:
    return sorted(file.stem for file in KEPT.glob("*.yaml") if file.with_suffix(".json").exists())


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", with_results())
def test_published_study_defines_the_configurations_of_its_results(name: str) -> None:
    _, study = load_study(KEPT / f"{name}.yaml")
    cells = study.all_cells()
    results = json.loads((KEPT / f"{name}.json").read_text())
    default = flat_values(load_config({}))
    for cell in results["cells"]:
        wanted = flat_values(load_config(study.base, {**study.overrides, **cells[cell["name"]]}))
        # Keys that later versions removed or added have their defaults.
        recorded = {key: value for key, value in flat(cell["config"]).items() if key in wanted}
        differing = {
            key: (recorded.get(key, default.get(key)), value)
            for key, value in wanted.items()
            if key not in DECIDED and not only_watches(key, wanted) and recorded.get(key, default.get(key)) != value
        }
        assert not differing, f"{cell['name']}: recorded and asked for"
        assert {run["seed"] for run in cell["runs"]} <= set(study.seeds)


# The log of the recipe search is not a study.
@pytest.mark.parametrize("name", sorted(file.name for file in KEPT.glob("*.yaml") if file.name != "log.yaml"))
def test_published_study_can_be_run(name: str) -> None:
    _, study = load_study(KEPT / name)
    for keys in study.all_cells().values():
        load_config(study.base, {**study.overrides, **keys})
