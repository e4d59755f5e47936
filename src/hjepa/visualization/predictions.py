"""What the predictor predicts for pictures, and cells of other images to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.masking import Masks
from hjepa.models.levels import batch_mean
from hjepa.visualization.features import cpu_images

if TYPE_CHECKING:
    from hjepa.masking import MaskSampler
    from hjepa.models import HJEPA
    from hjepa.visualization.split_images import ImageSource

_BANK_CELLS = 30_000
_BANK_IMAGES = 512
_FEWEST_IMAGES = 32
# Pictures on which predictions are counted, more than are shown.
COUNTED = 64


@dataclass(frozen=True)
class Bank:
    """Target features of whole images.

    Attributes:
        images: [n, C, H, W], normalised.
        cells: per level [n, cells, D], as the objective sees targets: layer-normalised without affine parameters.
        means: per level [1, cells, D], what ``model.center_targets`` subtracts; None if it is off.
    """

    images: Tensor
    cells: list[Tensor]
    means: list[Tensor] | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Predicted:
    """Predictions for the pictures of a batch under one draw of masks.

    Attributes:
        context: bool [n, tokens], what the context encoder saw.
        index: per level int64 [n, Nt], the predicted cells, row-major.
        predictions: per level [n, Nt, D].
        targets: per level [n, cells, D], the targets of all cells.
    """

    context: Tensor
    index: list[Tensor]
    predictions: list[Tensor]
    targets: list[Tensor]

    def truths(self, level: int) -> Tensor:
        """The targets of the predicted cells, [n, Nt, D]."""
        index = self.index[level].unsqueeze(-1).expand(-1, -1, self.targets[level].shape[-1])
        return self.targets[level].gather(1, index)


@torch.inference_mode()
def encode_bank(images: ImageSource, model: HJEPA, skip: int, count: int = _BANK_IMAGES) -> Bank | None:
    """Targets of the images that follow the first ``skip`` in the order of a source; None if there are none.

    About 30,000 cells of the finest level, and fewer images if a large encoder runs on a CPU.
    """
    geometry = model.geometry
    count = min(
        count, max(_FEWEST_IMAGES, _BANK_CELLS // geometry.num_tokens), cpu_images(model.target_encoder, share=0.2)
    )
    rows = images.order[skip : skip + count]
    if not len(rows):
        return None
    kept: list[Tensor] = []
    levels: list[list[Tensor]] = []
    for batch in images.batches(rows):
        kept.append(batch.images.cpu())
        levels.append([level.float().cpu() for level in model.target_encoder.levels(batch.images)])
    if not kept:
        return None
    cells = [torch.cat(level) for level in zip(*levels, strict=True)]
    means = [batch_mean(level, alone=True) for level in cells] if model.center_targets else None
    return Bank(torch.cat(kept), [_as_target(level, means, i) for i, level in enumerate(cells)], means)


@torch.inference_mode()
def predict(images: Tensor, model: HJEPA, sampler: MaskSampler, means: list[Tensor] | None, step: int = 0) -> Predicted:
    """Predict pictures [n, C, H, W] under the masks of a training step (their first set).

    Args:
        images: normalised.
        model: the trained model, in evaluation mode.
        sampler: the run's sampler.
        means: as in `Bank`.
        step: which draw.
    """
    n = len(images)
    device = next(model.parameters()).device
    drawn = sampler(step, n)
    masks = Masks(drawn.context[:n], tuple(t[:n] for t in drawn.targets), drawn.groups)
    output = model(images.to(device), masks.to(device))
    assert not isinstance(output, list)
    levels = [level.float().cpu() for level in model.target_encoder.levels(images.to(device))]
    context = torch.zeros(n, model.geometry.num_tokens, dtype=torch.bool).scatter(1, masks.context, True)
    return Predicted(
        context,
        list(masks.targets),
        # With `predict_visible`, those of visible cells follow.
        [p[:, : index.shape[1]].float().cpu() for p, index in zip(output.predictions, masks.targets, strict=True)],
        [_as_target(level, means, i) for i, level in enumerate(levels)],
    )


def _as_target(features: Tensor, means: list[Tensor] | None, level: int) -> Tensor:
    centred = features if means is None else features - means[level]
    return F.layer_norm(centred, (centred.shape[-1],))


def nearest_cells(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """The cells most similar to each query by cosine similarity.

    Args:
        queries: [m, D].
        bank: [n, cells, D].
        k: how many.

    Returns:
        int64 [m, k], indices of image * cells + cell, most similar first.
    """
    flat = F.normalize(bank.flatten(0, 1), dim=1)
    parts = [(F.normalize(part, dim=1) @ flat.T).topk(k, dim=1).indices for part in torch.split(queries, 2048)]
    return torch.cat(parts)


def own_share(predicted: Predicted, level: int) -> float | None:
    """How often a prediction is more similar to the target of its own cell than to that of the same cell in the next
    picture, 0 to 1. A prediction that knows the position only gets one half. None with fewer than two pictures."""
    if len(predicted.context) < 2:
        return None
    prediction = predicted.predictions[level]
    own = F.cosine_similarity(prediction, predicted.truths(level), dim=-1)
    index = predicted.index[level].unsqueeze(-1).expand_as(prediction)
    other = F.cosine_similarity(prediction, predicted.targets[level].roll(1, dims=0).gather(1, index), dim=-1)
    return float((own > other).float().mean())
