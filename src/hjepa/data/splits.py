"""Train, validation and test of a data set as one object."""

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
    """The three splits of a data set, each read when it is first asked for.

    * **train** is pretrained on, without labels. It contains the validation images where these are drawn from it.
    * **validation** is what choices are made on. Its labels are read and never fitted. Where the data set has validation
      images of its own beside test images, it is those; otherwise `data.validation_fraction` of train, drawn from the
      seed: the same share of every class where there are labels, any images otherwise.
    * **test** is read once everything has been chosen.

    Images drawn for validation have been seen in pretraining and test images have not, so a validation accuracy may lie
    above that of test. Configurations are treated alike, which is what comparing them needs.

    The division is a function of data set, configuration and seed: indices, the same in every process.

    Args:
        data: the ``data`` section.
        seed: ``seed`` of the run.
    """

    def __init__(self, data: DataConfig, seed: int = 0) -> None:
        self.data = data
        self.seed = seed

    @cached_property
    def train(self) -> ImageDataset:
        """Everything that is pretrained on. Raises as `hjepa.data.build_dataset`."""
        return build_dataset(self.data, "train", seed=self.seed)

    @cached_property
    def validation(self) -> ImageDataset | None:
        """What choices are made on; None where the configuration withholds nothing, or there are too few images to withhold
        one. Raises as `build_dataset`."""
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
        """What nobody has chosen by. Raises as `hjepa.data.build_dataset`."""
        return build_dataset(self.data, "test", seed=self.seed)

    @property
    def validation_rows(self) -> Tensor | None:
        """Rows of train that are validation images, int64 ascending; None where they are not drawn from train."""
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
            UserError: there are no validation images.
            DataError: as `hjepa.data.build_dataset`.
        """
        found: ImageDataset | None = getattr(self, split)
        if found is None:
            why = (
                "since data.validation_fraction=0; set data.validation_fraction=auto"
                if self.data.validation_fraction == 0
                else "since train is too small to spare one; add images"
            )
            raise UserError(f"split: {self.data.dataset} has no validation images, {why}")
        return found


def build_splits(data: DataConfig, seed: int = 0) -> Splits:
    """Train, validation and test of a data set; nothing is read before it is asked for.

    Args:
        data: the ``data`` section.
        seed: ``seed`` of the run; draws the splits that the set does not have, and ``data.subset``.

    Example:
        >>> import hjepa
        >>> splits = hjepa.build_splits(hjepa.DataConfig(dataset="digits"), seed=0)
        >>> len(splits.train), len(splits.validation), len(splits.fit_rows), len(splits.test)
        (1438, 143, 1295, 359)
    """
    return Splits(data, seed)
