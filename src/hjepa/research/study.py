"""The definition of a study: a YAML file with a base configuration, cells and seeds."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from hjepa.config import parse_yaml
from hjepa.config.base import Section
from hjepa.config.load import constraint
from hjepa.errors import UserError

_STUDIES = resources.files("hjepa.research") / "studies"


class Study(Section):
    """A grid of configurations times seeds on one data set.

    The cells are those named under `cells`, crossed with every combination of values under `grid`. Each cell is trained
    with every seed; a seed determines weights, order of images, crops and masks, so that two cells with the same seed
    are a pair.
    """

    title: str = Field(min_length=1)
    """Title of the study."""
    question: str = ""
    """Question that the study answers."""
    base: str | dict[str, Any] = "quickstart"
    """Preset, YAML file or sections that every cell starts from."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Dotted keys changed in every cell."""
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    """Seeds of every cell."""
    budget: Literal["images", "flop"] = "images"
    """What is equal between cells: the images seen, or the FLOP spent (epochs, warm-up and cool-down of a cell are then
    scaled to the FLOP of the reference)."""
    depths: list[int] = Field(default_factory=list)
    """Encoder blocks after which the features of every cell are also evaluated, concatenated. This compares a one-level
    encoder with one that has levels there."""
    reference: str | None = None
    """Name of the cell that the others are compared with; the first when not given."""
    cells: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Cells by name, each with the dotted keys it changes."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Dotted keys with the values to try; crossed with `cells` and with one another."""

    def all_cells(self) -> dict[str, dict[str, Any]]:
        """Every cell by name, in order, with its dotted keys."""
        named = self.cells or {"": {}}
        found: dict[str, dict[str, Any]] = {}
        for name, keys in named.items():
            for values in itertools.product(*self.grid.values()):
                pairs = dict(zip(self.grid, values, strict=True))
                parts = [name] if name else []
                parts += [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in pairs.items()]
                found[", ".join(parts) or "base"] = {**keys, **pairs}
        return found

    @property
    def reference_cell(self) -> str:
        """The cell that others are compared with."""
        return self.reference or next(iter(self.all_cells()))


def study_names() -> list[str]:
    """Names of the studies that ship with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _STUDIES.iterdir() if entry.name.endswith(".yaml"))


def load_study(source: str | Path | Mapping[str, Any]) -> tuple[str, Study]:
    """Read and check a study.

    Args:
        source: YAML file, name of a study that ships with the package, or a mapping.

    Returns:
        a name for its folder, and the study.

    Raises:
        UserError: one line per error, with the key and what is allowed.
    """
    name, tree = _read(source)
    try:
        study = Study.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(_explain(name, detail) for detail in error.errors())) from None
    check_seeds(study.seeds, f"{name}: seeds")
    _check_names(name, study)
    cells = study.all_cells()
    if study.reference is not None and study.reference not in cells:
        close = difflib.get_close_matches(study.reference, list(cells), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"cells are {', '.join(map(repr, cells))}"
        raise UserError(f"{name}: reference: {study.reference!r} is not a cell; {hint}")
    if any(key == "seed" for keys in cells.values() for key in keys):
        raise UserError(f"{name}: cells: a cell sets `seed`; list seeds under `seeds`, which apply to every cell")
    if "seed" in study.overrides:
        raise UserError(f"{name}: overrides: sets `seed`; list seeds under `seeds`, which apply to every cell")
    return name, study


def check_seeds(seeds: Sequence[int], where: str) -> None:
    """Reject duplicate and negative seeds.

    Raises:
        UserError: the message names the seeds.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: duplicate seed in {list(seeds)}; list each once")
    if any(seed < 0 for seed in seeds):
        raise UserError(f"{where}: negative seed in {list(seeds)}; use whole numbers of 0 or more")


def _check_names(name: str, study: Study) -> None:
    """Check that every cell has a unique name and folder."""
    empty = next((key for key, values in study.grid.items() if not values), None)
    if empty is not None:
        raise UserError(f"{name}: grid.{empty}: has no values; list those to try, or leave the key out")
    wanted = max(1, len(study.cells)) * math.prod(len(values) for values in study.grid.values())
    cells = study.all_cells()
    if len(cells) < wanted:
        raise UserError(
            f"{name}: grid: duplicate values, so that {wanted} cells have {len(cells)} names; list each value once"
        )
    folders: dict[str, str] = {}
    for cell in cells:
        other = folders.setdefault(slug(cell), cell)
        if other != cell:
            raise UserError(
                f"{name}: cells: {other!r} and {cell!r} would share the folder {slug(cell)!r}; rename one of them"
            )


def _read(source: str | Path | Mapping[str, Any]) -> tuple[str, Any]:
    if isinstance(source, Mapping):
        return "study", dict(source)
    if isinstance(source, str) and source in study_names():
        return source, parse_yaml((_STUDIES / f"{source}.yaml").read_text(encoding="utf-8"), source)
    path = Path(source)
    if not path.is_file():
        close = difflib.get_close_matches(str(source), study_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"give a YAML file or one of {', '.join(study_names())}"
        raise UserError(f"{source}: no such study; {hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); give a YAML file") from None
    tree = parse_yaml(text, str(path))
    return path.stem, tree if tree is not None else {}


def _explain(name: str, detail: Any) -> str:
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, list(Study.model_fields), n=1)
        hint = f"did you mean {close[0]}?" if close else f"valid keys: {', '.join(Study.model_fields)}"
        return f"{name}: {key}: unknown key; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    given = "" if detail["type"] == "missing" else f"invalid value {detail['input']!r}: "
    return f"{name}: {key + ': ' if key else ''}{given}{constraint(message)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "/".join(_short(part) for part in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def slug(text: str) -> str:
    """A folder name for a cell."""
    return re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-.") or "cell"
