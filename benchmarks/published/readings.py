"""One trained model as it was evaluated: the figures of a run folder, or of a cell of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hjepa.config import Config, all_keys, load_config

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
# Options of experiments that changed the work of a step, and how they were switched off.
_GONE = {"model.local_mixing": "none"}
# Where encoders of six blocks are compared: after the blocks at which four levels are tapped.
FOUR_DEPTHS = (1, 2, 4, 6)


@dataclass(frozen=True)
class Reading:
    """Accuracies in per cent on the test images.

    Attributes:
        linear: linear probe on the depths that are compared, side by side.
        knn: k-NN-20 on the same.
        last: linear probe on the last level alone.
        last_knn: k-NN-20 on the last level alone.
        rank: effective rank of the features of all levels.
        images: training images seen, repeats counted.
        config: the configuration as it was written, unknown keys included.
        processes: that shared a batch.
        seeds: that are averaged.
    """

    linear: float
    knn: float
    last: float
    last_knn: float
    rank: float | None
    images: int
    config: dict[str, Any]
    processes: int = 1
    seeds: tuple[int, ...] = (0,)

    @cached_property
    def today(self) -> Config | None:
        """The configuration as the program reads it now; None where it asks for an option that is gone."""
        return as_of_today(self.config)


def as_of_today(tree: dict[str, Any]) -> Config | None:
    """A written configuration without the keys that the program no longer has; None where one of those was in use."""
    known = all_keys()
    kept: dict[str, Any] = {}
    for key, value in _flat(tree).items():
        if key in known:
            kept[key] = value
        elif value != _GONE.get(key, value):
            return None
    if kept.get("model.position") not in (None, "sincos", "rope"):
        return None
    return load_config({}, kept)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    known = all_keys()
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            keys |= _flat(value, f"{key}.")
        else:
            keys[key] = value
    return keys


@dataclass(frozen=True)
class Published:
    """The files under ``docs/results``.

    Attributes:
        root: that folder.
    """

    root: Path = RESULTS

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file by its path under the folder."""
        tree: dict[str, Any] = json.loads((self.root / name).read_text(encoding="utf-8"))
        return tree

    def run(self, folder: str, depths: tuple[int, ...] = (), results: str = "results.json") -> Reading:
        """A run folder.

        Args:
            folder: its path.
            depths: blocks after which it is to be evaluated; its own levels when not given.
            results: which evaluation of it.

        Raises:
            ValueError: it was not evaluated at these depths.
        """
        found = self.json(f"{folder}/{results}")
        config = yaml.safe_load((self.root / folder / "config.yaml").read_text(encoding="utf-8"))
        environment = self.json(f"{folder}/environment.json")
        own = _level_depths(config)
        if not depths or depths == own:
            at = "trained"
        elif depths == tuple(found.get("depths") or ()):
            at = "trained_depths"
        else:
            raise ValueError(f"{folder}/{results}: evaluated at {found.get('depths')} and {own}, not at {depths}")
        linear, knn = found["linear_probe"], found["knn"]
        processes = int(environment["processes"])
        batch = config["data"]["batch_size"] * config["training"]["accumulation_steps"] * processes
        return Reading(
            linear=100 * linear[at],
            knn=100 * knn[at],
            last=100 * linear["levels"][-1]["trained"] if linear["levels"] else 100 * linear["trained"],
            last_knn=100 * knn["levels"][-1]["trained"] if knn["levels"] else 100 * knn["trained"],
            rank=found["rank"]["trained"] if found.get("rank") else None,
            images=found["step"] * batch,
            config=config,
            processes=processes,
            seeds=(int(config["seed"]),),
        )

    def seconds(self, folder: str) -> float | None:
        """Seconds of training of a run folder; None where they were not recorded."""
        found = self.json(f"{folder}/results.json").get("training_seconds")
        records = self.root / folder / "metrics.jsonl"
        if found is None and records.is_file():
            found = json.loads(records.read_text(encoding="utf-8").splitlines()[-1])["time"]
        return None if found is None else float(found)

    def study(self, name: str) -> dict[str, Any]:
        """A study's record by its name under ``recipe``, or by its path."""
        return self.json(name if "/" in name else f"recipe/{name}.json")

    def cell(self, study: str, name: str) -> Reading:
        """A cell of a study, averaged over its seeds."""
        row = cell_of(self.study(study), name)
        means = {key: value["mean"] for key, value in row["mean"].items()}
        pick = {part: 100 * means.get(f"{part}/depths", means[f"{part}/all"]) for part in ("linear_probe", "knn")}
        return Reading(
            linear=pick["linear_probe"],
            knn=pick["knn"],
            last=100 * means["linear_probe/last"],
            last_knn=100 * means["knn/last"],
            rank=means.get("rank"),
            images=row["images"],
            config=row["config"],
            seeds=tuple(run["seed"] for run in row["runs"] if "failed" not in run),
        )


def cell_of(study: dict[str, Any], name: str) -> dict[str, Any]:
    """The record of a study's cell.

    Raises:
        KeyError: no such cell.
    """
    for row in study["cells"]:
        if row["name"] == name:
            found: dict[str, Any] = row
            return found
    raise KeyError(f"{study['title']}: no cell {name!r}")


def _level_depths(tree: dict[str, Any]) -> tuple[int, ...]:
    config = as_of_today(tree)
    return () if config is None else tuple(level.depth for level in config.geometry().levels)
