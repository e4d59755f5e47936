"""Cost of the cells of a study, and scaling them to an equal budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hjepa.config import load_config
from hjepa.data import ImageDataset, Splits
from hjepa.errors import UserError
from hjepa.evaluation.settings import check_depths
from hjepa.training.cost import counted_cost
from hjepa.training.optim.schedules import Schedules

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.research.study import Study

# Keys in epochs that are scaled with the length of a run.
_LENGTHS = ("training.epochs", "training.warmup_epochs", "training.cooldown_epochs", "model.ema.momentum_warmup_epochs")
# Epochs are rounded to whole steps, so that budgets are equal only up to a step.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Cell:
    """One configuration of a study, without a seed.

    Attributes:
        name: as in the study.
        changes: dotted keys that it changes.
        config: the configuration, with the study's first seed.
        images: training images seen in a run, repeats counted.
        flop_per_image: counted FLOP, including loss and optimiser, see `StepCost`; None if the method does not count.
        tokens: tokens per image that each part works on; empty if the method does not count.
    """

    name: str
    changes: dict[str, Any]
    config: Config
    images: int
    flop_per_image: float | None
    tokens: dict[str, int]

    @property
    def flop(self) -> float | None:
        """FLOP of a run's training; None if the method does not count them."""
        return None if self.flop_per_image is None else self.images * self.flop_per_image


def plan_cells(study: Study, name: str, overrides: dict[str, Any]) -> list[Cell]:
    """Every cell with its cost, checked before anything is trained.

    Args:
        study: the study.
        name: for messages.
        overrides: dotted keys changed in every cell, after the study's own.

    Raises:
        UserError: an invalid configuration, depths that an encoder lacks, different numbers of images seen under
            ``budget: images``, or a method that does not count its FLOP under ``budget: flop``.
    """
    counter = _Counter()
    base = study.base if isinstance(study.base, dict) else str(study.base)
    changes = study.all_cells()
    # Keys of a cell override shared keys; command-line overrides take precedence over both.
    trees = {n: {**study.overrides, **keys, **overrides, "seed": study.seeds[0]} for n, keys in changes.items()}
    cells: dict[str, Cell] = {}
    for cell_name, tree in trees.items():
        try:
            config = load_config(base, tree)
            check_depths(study.depths, config.geometry().depth)
            cells[cell_name] = counter.cell(cell_name, changes[cell_name], config)
        except UserError as error:
            lines = str(error).splitlines()
            raise UserError("\n".join(f"{name}: cell {cell_name!r}: {line}" for line in lines)) from None
    reference = cells[study.reference_cell]
    if study.budget == "flop":
        for cell in cells.values():
            if cell.flop is None:
                raise UserError(
                    f"{name}: cell {cell.name!r}: method {cell.config.method} does not count its FLOP, which budget: flop "
                    "needs; implement its `cost`, or set budget: images"
                )
        return [counter.stretched(cell, reference) for cell in cells.values()]
    for cell in cells.values():
        if abs(cell.images - reference.images) > _TOLERANCE * reference.images:
            raise UserError(
                f"{name}: cell {cell.name!r} sees {cell.images} images and {reference.name!r} {reference.images}; a "
                "comparison needs an equal budget: change training.epochs of the cell, or set budget: flop"
            )
    return list(cells.values())


def _check_validation(train: ImageDataset) -> None:
    """Reject a data set without validation images.

    Raises:
        UserError: no validation images.
    """
    if train.division.withheld is None and not train.division.own_validation:
        raise UserError(
            "data.validation_fraction: a study needs validation images to compare cells, and there are none; set "
            "data.validation_fraction=auto"
        )


class _Counter:
    """Costs of configurations; reads each training set once, for its size and channels."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}

    def cell(self, name: str, changes: dict[str, Any], config: Config) -> Cell:
        size, channels = self._size(config)
        batch = config.data.batch_size * config.training.accumulation_steps
        if size < batch:
            raise UserError(
                f"data.batch_size: {batch} images per optimiser step, but only {size} training images; use a smaller batch"
            )
        schedules = Schedules(config, size // batch, batch)
        steps = min(schedules.total_steps, config.training.max_steps or schedules.total_steps)
        cost = counted_cost(config, channels)
        if cost is None:
            return Cell(name, changes, config, steps * batch, None, {})
        return Cell(name, changes, config, steps * batch, cost.total, cost.tokens)

    def stretched(self, cell: Cell, reference: Cell) -> Cell:
        """The cell with its length scaled to the reference's FLOP; both count them."""
        assert reference.flop is not None
        assert cell.flop is not None
        factor = reference.flop / cell.flop
        if abs(factor - 1) < 1e-9:
            return cell
        tree = cell.config.model_dump(mode="json")
        keys: dict[str, Any] = {}
        for key in _LENGTHS:
            value: Any = tree
            for part in key.split("."):
                value = value[part]
            keys[key] = value * factor
        if cell.config.training.max_steps is not None:
            keys["training.max_steps"] = max(1, round(cell.config.training.max_steps * factor))
        return self.cell(cell.name, cell.changes, load_config(tree, keys))

    def _size(self, config: Config) -> tuple[int, int]:
        key = f"{config.data.model_dump_json(exclude={'batch_size', 'augmentation', 'image_size'})} {config.seed}"
        if key not in self._sizes:
            dataset = Splits(config.data, config.seed).train
            _check_validation(dataset)
            self._sizes[key] = (len(dataset), dataset.channels)
        return self._sizes[key]
