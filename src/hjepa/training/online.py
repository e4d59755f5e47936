"""Online evaluation during training: health of the features, and k-NN on images of the training split."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hjepa.data import eval_batches
from hjepa.health.measures import LevelMeasures, Measuring, record_of
from hjepa.health.thresholds import HEALTHY_RANK
from hjepa.metrics import accuracy, leave_one_out, rankme
from hjepa.models import distinct_levels
from hjepa.runtime.random import Purpose, stream
from hjepa.training.online_budget import FEWEST, affordable_images
from hjepa.training.precision import Precision

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder

log = logging.getLogger("hjepa")

_K = 20
_CPU_BATCH = 64
_FEWEST_FOR_KNN = 4


@dataclass(frozen=True)
class OnlineResult:
    """What an online evaluation found.

    Attributes:
        levels: measures of the features of every level.
        values: numbers by the names used in records: with labels ``knn`` (accuracy) and ``knn_queries``; ``rank`` of all
            levels concatenated; per level ``std``, ``dead``, ``rank``, ``cosine``, ``lidar`` and ``position``.
    """

    levels: list[LevelMeasures]
    values: dict[str, float]

    def __str__(self) -> str:
        """The numbers of all levels together, for the log."""
        knn = f"k-NN {self.values['knn']:.1%}  " if "knn" in self.values else ""
        return f"{knn}effective rank {self.values['rank']:.1f}"


class OnlineEvaluation:
    """Evaluates an encoder on fixed images of the training split, never on test images.

    Health is measured on ``health.images`` validation images. For k-NN, up to ``evaluation.online_images`` further
    training images are encoded, and each of all images is classified by the others, so that none is read for one purpose
    only. `hjepa.training.online_budget` says how many images take at most 3 % of the time.

    Args:
        config: the configuration.
        dataset: the training images.
        mean, std: normalisation.
        device: where the model is.
        processes: number of processes that train together.

    Attributes:
        measured: rows whose features are measured, int64 ascending.
        further: other rows, for k-NN, int64 ascending; empty without labels.
    """

    def __init__(
        self,
        config: Config,
        dataset: ImageDataset,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        processes: int = 1,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.normalisation = (mean, std)
        self.device = device
        self._precision = Precision(config.training, device)
        order = stream(Purpose.ONLINE, config.seed).permutation(len(dataset))
        labels = None if dataset.labels is None else dataset.labels.numpy()
        withheld = dataset.division.withheld
        held = np.zeros(len(dataset), dtype=bool) if withheld is None else withheld.numpy()
        # Validation images first; without any, or with too few, other training images.
        order = np.concatenate([order[held[order]], order[~held[order]]])
        # k-NN needs labels. If too few images have one, unlabelled ones are kept for the other measures.
        known = np.ones(len(order), dtype=bool) if labels is None else labels[order] >= 0
        order = order[known] if known.sum() >= FEWEST else order
        self._labelled = labels is not None and bool((labels[order] >= 0).all())
        measured, together = affordable_images(config, len(dataset), dataset.channels, processes)
        self.measured = torch.from_numpy(np.sort(dataset.first(order, min(measured, len(order)))))
        rest = order[~np.isin(order, self.measured.numpy())] if self._labelled else order[:0]
        count = min(config.evaluation.online_images, together - measured, len(rest))
        self.further = torch.from_numpy(np.sort(dataset.first(rest, count) if count else rest[:0]))
        self._skipped_said = False

    @torch.no_grad()  # not inference mode: FSDP could not train parameters gathered in it
    def __call__(self, encoder: Encoder) -> OnlineResult:
        """Evaluate. Values that need more images are left out, with a warning the first time."""
        measuring, rows = self._measuring(encoder)
        levels = measuring.measures()
        values = record_of(levels)
        if not all(level.finite for level in levels):
            log.warning("online evaluation: the features are not finite; the model has diverged")
            return OnlineResult(levels, values | {"rank": 0.0})
        features = self._together(encoder, [measuring.pooled(number) for number in range(len(levels))])
        values["rank"] = rankme(features)
        self._say_what_is_skipped(len(features))
        if self._has_knn:
            if len(self.further):
                more, further = self.pooled(encoder, self.further)
                features, rows = torch.cat([features, more]), torch.cat([rows, further])
            labels = self.dataset.labels
            assert labels is not None
            labels = labels[rows]
            predicted = leave_one_out(features.to(self.device), labels, k=min(_K, len(features) - 1))
            values |= {"knn": accuracy(predicted, labels), "knn_queries": len(features)}
        return OnlineResult(levels, values)

    @torch.no_grad()
    def measures(self, encoder: Encoder) -> list[LevelMeasures]:
        """Measures of the features of every level."""
        return self._measuring(encoder)[0].measures()

    @torch.no_grad()
    def encode_some(self, encoder: Encoder, images: int) -> int:
        """Encode some of the images and forget them, to find out how long it takes.

        Returns:
            how many were encoded.
        """
        return sum(len(index) for index, _ in self._levels(encoder, self.measured[:images]))

    def _measuring(self, encoder: Encoder) -> tuple[Measuring, Tensor]:
        """Features of the images to measure, and the rows of those that could be read."""
        measuring, rows = Measuring(), []
        for index, levels in self._levels(encoder, self.measured):
            measuring.add(levels)
            rows.append(index)
        return measuring, torch.cat(rows)

    @torch.no_grad()
    def pooled(self, encoder: Encoder, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features for k-NN, [n, D] on the host, and the rows of the images that could be read, [n]."""
        found = [
            (self._together(encoder, [cells.float().mean(dim=1).cpu() for cells in levels]), index)
            for index, levels in self._levels(encoder, rows)
        ]
        return torch.cat([features for features, _ in found]), torch.cat([index for _, index in found])

    @property
    def _has_knn(self) -> bool:
        return self._labelled and len(self.measured) + len(self.further) >= _FEWEST_FOR_KNN

    def _say_what_is_skipped(self, images: int) -> None:
        skipped = ["k-NN"] if self.dataset.labels is not None and not self._has_knn else []
        skipped += ["cosine between images"] if images < 2 else []
        if skipped and not self._skipped_said:
            noun = "image is" if images == 1 else "images are"
            log.warning("online evaluation: %d %s too few for %s; skipped", images, noun, " and ".join(skipped))
            self._skipped_said = True

    def _together(self, encoder: Encoder, pooled: list[Tensor]) -> Tensor:
        """Distinct levels side by side, each at length one."""
        chosen = [pooled[level] for level in distinct_levels(encoder.geometry)]
        return torch.cat([torch.nn.functional.normalize(f, dim=1) for f in chosen], dim=1)

    def _levels(self, encoder: Encoder, rows: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Rows [b] and cell features of every level, [b, cells, D] each, batch by batch."""
        was_training = encoder.training
        encoder.eval()
        mean, std = self.normalisation
        batches = eval_batches(
            self.dataset,
            rows,
            encoder.geometry.height_width,
            mean=mean,
            std=std,
            # Beyond this a CPU only leaves its caches.
            batch_size=_CPU_BATCH if self.device.type == "cpu" else max(self.config.data.batch_size, _CPU_BATCH),
            num_workers=self.config.data.num_workers,
            device=self.device,
        )
        for batch in batches:
            # In the precision of training: the encoding takes most of the time.
            with self._precision.autocast():
                levels = encoder.levels(batch.images)
            yield batch.indices.cpu(), levels
        encoder.train(was_training)


def score(values: dict[str, float], metric: str, loss: float, width: int) -> float:
    """Score of a checkpoint; higher is better.

    Args:
        values: of an `OnlineResult`.
        metric: `auto`, `knn`, `rank` or `loss`.
        loss: training loss.
        width: width of one level.
    """
    if metric == "loss":
        return -loss
    if metric == "knn" or (metric == "auto" and "knn" in values):
        return values.get("knn", 0.0)
    # Effective rank counts only while no level is collapsing.
    levels = [v for name, v in values.items() if name.startswith("rank/level_")]
    return values["rank"] if min(levels) >= HEALTHY_RANK * width else 0.0
