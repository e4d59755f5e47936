"""A third method for the tests: VICReg (arXiv:2105.04906) on two views, without masks, predictor or moving average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.config import Config
from hjepa.data import Batch, ViewSpec
from hjepa.methods import Method, StepOutput, register
from hjepa.models import Encoder, VisionTransformer
from hjepa.objectives import covariance_loss, variance_loss


@register("two_views")
class TwoViews(Method):
    """Makes the projections of two crops of an image equal; variance and covariance terms prevent collapse."""

    compares_images = True

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__(config, channels)
        self.trunk = VisionTransformer(config.model, config.geometry(), channels)
        width = self.trunk.embed_dim
        self.projector = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.register_buffer("centre", torch.zeros(width))
        self._projections: Tensor | None = None

    @property
    def encoder(self) -> Encoder:
        """The trained encoder; this method has no moving average."""
        return self.trunk

    def views(self) -> tuple[ViewSpec, ...]:
        """Two crops of each image."""
        return (replace(super().views()[0], name="crop", count=2, random_crop=True, scale=(0.3, 1.0)),)

    def forward(self, batch: Batch, plan: Any, step: int) -> StepOutput:
        """Invariance, variance and covariance terms."""
        assert plan is None
        images = torch.cat([view.images for view in batch.views])
        pooled = self.trunk(images)[self.trunk.depths[-1]].mean(dim=1)
        first, second = (half.float() for half in self.projector(pooled).chunk(2))
        terms = {
            "invariance": F.mse_loss(first, second),
            "variance": variance_loss(first) + variance_loss(second),
            "covariance": covariance_loss(first) + covariance_loss(second),
        }
        self._projections = first.detach()
        return StepOutput(
            total=25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"],
            terms={name: term.detach() for name, term in terms.items()},
            checks={"projection": torch.isfinite(first.detach()).all().reshape(1)},
        )

    def after_update(self, step: int, made: Tensor | None = None) -> None:
        """Update a running centre, as in DINO: a buffer that is not trained but is part of the checkpoint."""
        assert self._projections is not None
        self.centre.lerp_(self._projections.mean(dim=0), 0.1 if made is None else 0.1 * made.float())

    def diagnostics(self) -> dict[str, Tensor]:
        """Standard deviation of the last micro-batch's projections."""
        assert self._projections is not None
        return {"spread": self._projections.std(dim=0).mean()}

    def fewest_images(self, processes: int) -> int:
        """Variance and covariance need several images."""
        return 4
