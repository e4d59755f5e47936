"""The train, validation and test splits of a data set as one object."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.data.build import build_dataset
from hjepa.data.dataset import ImageDataset, Split
from hjepa.errors import EmptySplitError, UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig


class Splits:
    """The three splits of a data set, each loaded on first access.

    * **train**: pretraining, without labels. Contains the validation images if these are drawn from it.
    * **validation**: model selection. Its labels are scored against, never fitted. These are the data set's own
      validation images if it has both validation and test images. Otherwise they are `data.validation_fraction` of
      train, drawn from the seed: stratified by class if there are labels, uniform if not.
    * **test**: the final evaluation, once all choices are made.

    Validation images drawn from train have been seen in pretraining, unlike test images, so validation accuracy may be
    higher than test accuracy. This applies to all configurations alike, so they can still be compared.

    The division depends only on data set, configuration and seed, so it is the same in every process.

    Args:
        data: the ``data`` section.
        seed: ``seed`` of the run.
    """

    def __init__(self, data: DataConfig, seed: int = 0) -> None:
        self.data = data
        self.seed = seed

    @cached_property
    def train(self) -> ImageDataset:
        """All images for pretraining. Raises as `hjepa.data.build_dataset`."""
        return build_dataset(self.data, "train", seed=self.seed)

    @cached_property
    def validation(self) -> ImageDataset | None:
        """Images for model selection; None if the configuration withholds none or there are too few to withhold any.
        Raises as `build_dataset`."""
        alone = "train" not in self.__dict__ and self.data.validation_fraction != 0
        if alone or self.train.division.own_validation:
            try:
                return build_dataset(self.data, "validation", seed=self.seed)  # without reading the rest of train
            except EmptySplitError:
                return None
        rows = self.validation_rows
        if rows is None or not len(rows):
            return None
        validation = self.train.select(rows)
        validation.split = "validation"
        return validation

    @cached_property
    def test(self) -> ImageDataset:
        """Images for the final evaluation, not used for any choice. Raises as `hjepa.data.build_dataset`."""
        return build_dataset(self.data, "test", seed=self.seed)

    @property
    def validation_rows(self) -> Tensor | None:
        """Rows of train that are validation images, int64 ascending; None if they are not drawn from train."""
        withheld = self.train.division.withheld
        return None if withheld is None else withheld.nonzero().flatten()

    @property
    def fit_rows(self) -> Tensor:
        """Rows of train whose labels may be fitted, int64 ascending."""
        withheld = self.train.division.withheld
        return torch.arange(len(self.train)) if withheld is None else (~withheld).nonzero().flatten()

    def of(self, split: Split) -> ImageDataset:
        """One split by name.

        Raises:
            UserError: the split is validation and there are no validation images.
            DataError: as `hjepa.data.build_dataset`.
        """
        found: ImageDataset | None = getattr(self, split)
        if found is None:
            why = (
                "data.validation_fraction=0 withholds none; set data.validation_fraction=auto"
                if self.data.validation_fraction == 0
                else "there are too few training images to withhold any; add images"
            )
            raise UserError(
                f"split: there are no validation images to evaluate, since {why}, or evaluate the test split"
            )
        return found


def build_splits(data: DataConfig, seed: int = 0) -> Splits:
    """The train, validation and test splits of a data set, each loaded on first access.

    Args:
        data: the ``data`` section.
        seed: ``seed`` of the run; draws ``data.subset`` and the splits that the data set does not define.

    Example:
        >>> import hjepa
        >>> splits = hjepa.build_splits(hjepa.DataConfig(dataset="digits"), seed=0)
        >>> len(splits.train), len(splits.validation), len(splits.fit_rows), len(splits.test)
        (1438, 143, 1295, 359)
    """
    return Splits(data, seed)
