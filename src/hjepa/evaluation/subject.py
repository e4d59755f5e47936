"""What a protocol may read: the model, the images, their features and labels, computed once for all protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from hjepa.evaluation.scores import Representation, Task, fit_probe
from hjepa.runs.load import untrained_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from hjepa.config import Config
    from hjepa.data import ImageDataset, Split, Splits
    from hjepa.evaluation.features import View
    from hjepa.evaluation.settings import Readings
    from hjepa.metrics import ProbeResult
    from hjepa.models import Encoder
    from hjepa.runs.load import TrainedRun


@dataclass
class Subject:
    """A trained model with the images of one evaluation and their features. Protocols read it and do not change it.

    Attributes:
        run: the trained model, its configuration and where it is stored.
        config: the run's configuration, with the data set that is evaluated and `evaluation.*`.
        splits: the images of the data set, as splits.
        split: the split that was requested, `validation` or `test`.
        read: images by split. Contains `split`; for `test` also `validation`, if there are such images with labels.
        rows: int64 rows of each split in `read` that have features, ascending.
        train_rows: int64 rows of ``splits.train`` that may be fitted, ascending: labelled, without validation images.
        view: how images are resized, normalised and batched for the model.
        readings: controls, and depths that are read besides levels.
        levels: levels to report separately, ascending.
        representations: pooled features of the trained model and of every control, for `train_rows` and `rows`.
        task: labels of `train_rows` and `rows`, or the reason why there is no classification task.
        k_values: numbers of neighbours that were requested; None for the default.
        console: whether to draw progress bars where standard output is a terminal.
        on_request: what `results["controls"]` says of each control that was requested by name, such as its licence.
    """

    run: TrainedRun
    config: Config
    splits: Splits
    split: Split
    read: dict[str, ImageDataset]
    rows: dict[str, Tensor]
    train_rows: Tensor
    view: View
    readings: Readings
    levels: tuple[int, ...]
    representations: list[Representation]
    task: Task | str
    k_values: Sequence[int] | None = None
    console: bool = False
    on_request: list[dict[str, Any]] = field(default_factory=list)
    probes: dict[str, ProbeResult] = field(default_factory=dict)
    """Linear probes fitted so far; use `probe`."""

    @property
    def seed(self) -> int:
        """Seed of everything drawn in this evaluation."""
        return self.config.seed

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return self.view.device

    @property
    def train(self) -> ImageDataset:
        """The training images; fit on `train_rows` only."""
        return self.splits.train

    @property
    def encoder(self) -> Encoder:
        """The trained encoder, in evaluation mode. Copy it before changing its weights."""
        return self.run.encoder

    @cached_property
    def untrained(self) -> Encoder:
        """The same encoder with its initial weights, in evaluation mode."""
        return untrained_encoder(self.run)

    def encoders(self) -> dict[str, Encoder]:
        """The trained encoder, and the untrained one unless that control was left out, by name."""
        found = {"trained": self.encoder}
        return found | {"untrained": self.untrained} if "untrained" in self.readings.controls else found

    def representation(self, name: str) -> Representation | None:
        """Features by name; None if that control was left out."""
        return next((r for r in self.representations if r.name == name), None)

    def probe(self, name: str = "trained", level: int | None = None) -> ProbeResult:
        """The linear probe of a representation, fitted on `train_rows` once per evaluation.

        Args:
            name: of a representation.
            level: one level; all together if None.

        Raises:
            ValueError: there is no such representation, no task, or no class with two training images.
        """
        found = self.representation(name)
        if found is None or isinstance(self.task, str):
            raise ValueError(f"no linear probe of {name}: {'no such features' if found is None else self.task}")
        key = name if level is None else f"{name}_level_{level}"
        if key not in self.probes:
            train, read = found.together if level is None else found.alone(level)
            self.probes[key] = fit_probe(train, read, self.task)
        return self.probes[key]
