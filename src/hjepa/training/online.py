"""Online evaluation during training: k-NN on a split of the training images, effective rank, spread."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hjepa.data import eval_batches
from hjepa.health.thresholds import HEALTHY_RANK
from hjepa.metrics import accuracy, feature_std, knn_predict, mean_cosine, rankme
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


class OnlineEvaluation:
    """Evaluates an encoder on a fixed subset of the training images, never on test images.

    Args:
        config: the configuration.
        dataset: the training images.
        mean, std: normalisation.
        device: where the model is.
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
        affordable = int(_SHARE_OF_IMAGES * len(dataset) * config.evaluation.eval_frequency)
        count = min(config.evaluation.online_images, max(_FEWEST, affordable), len(dataset))
        order = stream(Purpose.ONLINE, config.seed).permutation(len(dataset))
        chosen = dataset.first(order, count)
        labels = dataset.labels
        if labels is not None:
            known = labels.numpy()[chosen] >= 0
            # k-NN needs labels. If too few images have one, keep the unlabelled ones for the rank.
            chosen = chosen[known] if known.sum() >= _FEWEST else chosen
        self.indices = torch.from_numpy(np.sort(chosen))
        picked = None if labels is None else labels[self.indices]
        self.labels = picked if picked is not None and bool((picked >= 0).all()) else None
        self._skipped_said = False

    @torch.no_grad()  # not inference mode: FSDP could not train parameters gathered in it
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Evaluate.

        Returns:
            with labels `knn` (accuracy) and `knn_queries`; per level `rank/level_<n>`, `std/level_<n>` and
            `cosine/level_<n>`; `rank` of all levels concatenated. Values that need more images are left out, with a
            warning the first time.
        """
        features = self._features(encoder)
        if not all(bool(torch.isfinite(f).all()) for f in features):
            log.warning("online evaluation: the features are not finite; the model has diverged")
            return {"rank": 0.0} | {f"rank/level_{level}": 0.0 for level in range(len(features))}
        chosen = [features[level] for level in distinct_levels(encoder.geometry)]
        together = torch.cat([torch.nn.functional.normalize(f, dim=1) for f in chosen], dim=1)
        values: dict[str, float] = {}
        self._say_what_is_skipped(len(together))
        if self.labels is not None and len(together) >= _FEWEST_FOR_KNN:
            # Every fourth image is a query; the rest are references.
            asks = torch.arange(len(together)) % 4 == 3
            k = min(_K, int((~asks).sum()))
            predicted = knn_predict(together[~asks], self.labels[~asks], together[asks], k=k)[k]
            values["knn"] = accuracy(predicted, self.labels[asks])
            values["knn_queries"] = int(asks.sum())
        values["rank"] = rankme(together)
        for level, level_features in enumerate(features):
            values[f"rank/level_{level}"] = rankme(level_features)
            values[f"std/level_{level}"] = float(feature_std(level_features).mean())
            if len(level_features) > 1:
                values[f"cosine/level_{level}"] = mean_cosine(level_features)
        return values

    def _say_what_is_skipped(self, images: int) -> None:
        skipped = ["k-NN"] if self.labels is not None and images < _FEWEST_FOR_KNN else []
        skipped += ["cosine between images"] if images < 2 else []
        if skipped and not self._skipped_said:
            noun = "image is" if images == 1 else "images are"
            log.warning("online evaluation: %d %s too few for %s; skipped", images, noun, " and ".join(skipped))
            self._skipped_said = True

    def _features(self, encoder: Encoder) -> list[Tensor]:
        was_training = encoder.training
        encoder.eval()
        mean, std = self.normalisation
        batches = eval_batches(
            self.dataset,
            self.indices,
            encoder.geometry.height_width,
            mean=mean,
            std=std,
            batch_size=max(self.config.data.batch_size, 64),
            num_workers=self.config.data.num_workers,
            device=self.device,
        )
        parts = [[f.mean(dim=1).float().cpu() for f in encoder.levels(batch.images)] for batch in batches]
        encoder.train(was_training)
        return [torch.cat(level) for level in zip(*parts, strict=True)]


def score(values: dict[str, float], metric: str, loss: float, width: int) -> float:
    """Score of a checkpoint; higher is better.

    Args:
        values: result of `OnlineEvaluation`.
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
