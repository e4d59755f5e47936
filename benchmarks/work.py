"""Calculated FLOP of configurations and studies: networks, loss and optimiser, in MFLOP per image.

    python -m benchmarks.work cifar10_cpu docs/results/cifar10_cpu/width_192/flat/config.yaml --batch 128
    python -m benchmarks.work flat --json work.json
    python -m benchmarks.work cifar10_cpu --batch 128 --flat

A name is a preset, a configuration file, or a study, which gives one row per cell. With `--flat` each configuration
with several levels is followed by its flat copy: one level after the last block, and the narrowest predictor that makes
its FLOP at least equal. Nothing is trained or measured.
"""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path

import yaml

from benchmarks.report import Rows, parser, show, write
from hjepa.config import Config, load_config, presets
from hjepa.research.study import load_study
from hjepa.training.cost import training_cost


def row(name: str, config: Config, first: float | None = None) -> dict[str, str | int | float | None]:
    """A configuration's FLOP per image by part.

    Args:
        name: label of the row.
        config: the configuration.
        first: FLOP per image with which the total is compared; None leaves `over first` empty.
    """
    cost = training_cost(config, config.data.channels or 3)
    geometry = config.geometry()
    levels = "/".join(f"{level.depth}" + f"s{level.stride}" * (level.stride != 1) for level in geometry.levels)
    return {
        "configuration": name,
        "levels": levels,
        "prediction by": f"{config.model.predictor.depth} x {geometry.predictor_dim}",
        **{part: flop / 1e6 for part, flop in cost.parts.items()},
        "MFLOP per image": cost.total / 1e6,
        "over first, %": None if first is None else 100 * (cost.total / first - 1),
    }


def flat_copy(config: Config, width: int) -> Config:
    """The configuration with one level and a predictor of the given width."""
    predictor = config.model.predictor.model_copy(update={"embed_dim": width, "sharing": "shared"})
    keys = {"num_hierarchies": 1, "levels": None, "depth": config.geometry().depth, "predictor": predictor}
    loss = config.loss.model_copy(update={"hierarchy_weights": None})
    return config.model_copy(update={"model": config.model.model_copy(update=keys), "loss": loss})


def as_much_work(config: Config) -> Config:
    """The flat copy with the narrowest predictor that makes its FLOP at least those of the configuration."""
    wanted = training_cost(config, config.data.channels or 3).total
    # The width must be a multiple of the number of heads, and of 4 for the position embeddings.
    step = math.lcm(4, config.geometry().predictor_heads)
    for number in count(1):
        flat = flat_copy(config, number * step)
        if training_cost(flat, config.data.channels or 3).total >= wanted:
            return flat
    raise AssertionError


def configurations(name: str, batch: int | None) -> dict[str, Config]:
    """The configurations that a name refers to: one, or the cells of a study."""
    keys = {} if batch is None else {"data.batch_size": batch}
    path = Path(name)
    # A study is a file with cells, or one that ships with hjepa.
    is_study = "cells" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else False
    if not is_study and (path.is_file() or name in presets()):
        return {name: load_config(name, keys)}
    _, study = load_study(name)
    tree = {**study.overrides, **keys}
    return {cell: load_config(study.base, {**tree, **changes}) for cell, changes in study.all_cells().items()}


def measure(names: list[str], *, batch: int | None = None, flat: bool = False) -> Rows:
    """One row per configuration.

    Args:
        names: presets, files or studies.
        batch: images of a micro-batch, all processes together; `data.batch_size` if not given.
        flat: add a flat copy with at least as many FLOP.
    """
    rows: Rows = []
    for name in names:
        first: float | None = None
        for label, config in configurations(name, batch).items():
            rows.append(row(label, config, first))
            first = first or training_cost(config, config.data.channels or 3).total
            if flat and len(config.geometry().levels) > 1:
                total = training_cost(config, config.data.channels or 3).total
                rows.append(row(f"{label}, flat", as_much_work(config), total))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", default=["cifar10_cpu"], help="presets, files or studies")
    options.add_argument("--batch", type=int, help="images of a micro-batch, all processes together")
    options.add_argument("--flat", action="store_true", help="add flat copies with at least as many FLOP")
    given = options.parse_args(arguments)
    rows = measure(given.names, batch=given.batch, flat=given.flat)
    show(rows)
    write(given.json, "work", {"work": rows})


if __name__ == "__main__":
    main()
