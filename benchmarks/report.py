"""Shared by all measurements: command-line options, the printed table, and the JSON file with the conditions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hjepa.config import Config, load_config, parse_override
from hjepa.runtime.device import resolve_device
from hjepa.runtime.environment import environment
from hjepa.runtime.files import write_atomically
from hjepa.training.precision import settle_precision

Cell = str | int | float | None
Rows = list[dict[str, Cell]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options common to all measurements."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results and their conditions to this file")
    made.add_argument(
        "--short",
        action="store_true",
        help="tiny sizes and one round, to check that everything runs; do not use the numbers",
    )
    made.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's setting)")
    return made


def configuration(name: str, overrides: Sequence[str] = (), **keys: Any) -> Config:
    """Load a configuration and settle its precision for this machine.

    Args:
        name: YAML file or preset.
        overrides: `section.key=value`.
        keys: further keys, with `__` for the dot; None is ignored.
    """
    values = {key.replace("__", "."): value for key, value in keys.items() if value is not None}
    config = load_config(name, values | dict(parse_override(text) for text in overrides))
    return settle_precision(config, resolve_device(config.device))


def show(rows: Rows) -> None:
    """Print rows with the same keys as a table, numbers right-aligned."""
    names = list(rows[0])
    cells = [[text(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    left = [isinstance(rows[0][name], str) for name in names]
    for line in [names, *cells]:
        print(
            "  ".join(
                c.ljust(w) if is_text else c.rjust(w) for c, w, is_text in zip(line, widths, left, strict=True)
            ).rstrip()
        )


def write(file: Path | None, benchmark: str, figures: dict[str, Any], config: Config | None = None) -> None:
    """Write results and their conditions as JSON; does nothing if `file` is None."""
    if file is None:
        return
    about = environment(config or Config(), resolve_device("cpu" if config is None else config.device), 1)
    if config is None:
        del about["seed"]
    tree = {"benchmark": benchmark, **figures, "threads": torch.get_num_threads(), "environment": about}
    if config is not None:
        tree["config"] = config.model_dump(mode="json")
    write_atomically(file, json.dumps(tree, indent=2) + "\n")
    print(f"wrote {file}")


def text(value: Cell) -> str:
    """A table cell; numbers with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
