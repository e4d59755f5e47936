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
from hjepa.health.measures import LevelMeasures, Measuring
from hjepa.health.thresholds import HEALTHY_RANK
from hjepa.metrics import accuracy, knn_predict, rankme
from hjepa.models import distinct_levels
from hjepa.runtime.random import Purpose, stream

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder

log = logging.getLogger("hjepa")

# A training step costs about three times the encoding of its images, so encoding 9 % of the images trained on between
# two evaluations takes 3 % of the time.
_SHARE_OF_IMAGES = 0.09
_FEWEST = 40
_K = 20
# Three references and one query.
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


class OnlineEvaluation:
    """Evaluates an encoder on fixed images of the training split, never on test images.

    Health is measured on ``health.images`` validation images, which are also the queries of k-NN; the references of
    k-NN are ``evaluation.online_images`` other training images. So k-NN ranks runs like the final evaluation on
    validation images does. If so many images would take more than 3 % of the time, fewer are used.

    Args:
        config: the configuration.
        dataset: the training images.
        mean, std: normalisation.
        device: where the model is.

    Attributes:
        queries: rows whose features are measured, int64 ascending.
        references: other rows, int64 ascending; empty without labels.
    """

    def __init__(
        self,
        config: Config,
        dataset: ImageDataset,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.normalisation = (mean, std)
        self.device = device
        affordable = max(_FEWEST, int(_SHARE_OF_IMAGES * len(dataset) * config.evaluation.eval_frequency))
        order = stream(Purpose.ONLINE, config.seed).permutation(len(dataset))
        labels = None if dataset.labels is None else dataset.labels.numpy()
        withheld = dataset.division.withheld
        held = np.zeros(len(dataset), dtype=bool) if withheld is None else withheld.numpy()
        # Validation images first; without any, or with too few, other training images.
        order = np.concatenate([order[held[order]], order[~held[order]]])
        # k-NN needs labels. If too few images have one, unlabelled ones are kept for the other measures.
        known = np.ones(len(order), dtype=bool) if labels is None else labels[order] >= 0
        order = order[known] if known.sum() >= _FEWEST else order
        with_labels = labels is not None and bool((labels[order] >= 0).all())
        # A quarter at least is left for references.
        most = max(1, len(order) - len(order) // 4) if with_labels else len(order)
        queries = min(config.health.images, affordable, most)
        self.queries = torch.from_numpy(np.sort(dataset.first(order, queries)))
        rest = order[~np.isin(order, self.queries.numpy()) & ~held[order]] if with_labels else order[:0]
        count = min(config.evaluation.online_images, max(_FEWEST, affordable - queries), len(rest))
        self.references = torch.from_numpy(np.sort(dataset.first(rest, count) if count else rest[:0]))
        self._skipped_said = False

    @torch.no_grad()  # not inference mode: FSDP could not train parameters gathered in it
    def __call__(self, encoder: Encoder) -> OnlineResult:
        """Evaluate. Values that need more images are left out, with a warning the first time."""
        measuring, rows = self._measuring(encoder)
        levels = measuring.measures()
        values = {name: value for number, level in enumerate(levels) for name, value in level.record(number).items()}
        if not all(level.finite for level in levels):
            log.warning("online evaluation: the features are not finite; the model has diverged")
            return OnlineResult(levels, values | {"rank": 0.0})
        asks = self._together(encoder, [measuring.pooled(number) for number in range(len(levels))])
        values["rank"] = rankme(asks)
        self._say_what_is_skipped(len(asks))
        if self._has_knn:
            found = [(index, [cells.mean(dim=1).float().cpu() for cells in levels])
                     for index, levels in self._levels(encoder, self.references)]  # fmt: skip
            pooled = [torch.cat(level) for level in zip(*(levels for _, levels in found), strict=True)]
            references = self._together(encoder, pooled)
            labels = self.dataset.labels
            assert labels is not None
            known = labels[torch.cat([index for index, _ in found])]
            k = min(_K, len(references))
            values["knn"] = accuracy(knn_predict(references, known, asks, k=k)[k], labels[rows])
            values["knn_queries"] = len(asks)
        return OnlineResult(levels, values)

    @torch.no_grad()
    def measures(self, encoder: Encoder) -> list[LevelMeasures]:
        """Measures of the features of every level."""
        return self._measuring(encoder)[0].measures()

    def _measuring(self, encoder: Encoder) -> tuple[Measuring, Tensor]:
        """Features of the queries, and the rows of those that could be read."""
        measuring, rows = Measuring(), []
        for index, levels in self._levels(encoder, self.queries):
            measuring.add(levels)
            rows.append(index)
        return measuring, torch.cat(rows)

    @property
    def _has_knn(self) -> bool:
        return len(self.references) + len(self.queries) >= _FEWEST_FOR_KNN and len(self.references) > 0

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
            batch_size=max(self.config.data.batch_size, 64),
            num_workers=self.config.data.num_workers,
            device=self.device,
        )
        for batch in batches:
            yield batch.indices.cpu(), list(encoder.levels(batch.images))
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
