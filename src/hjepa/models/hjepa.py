"""The hierarchical joint-embedding predictive architecture: context encoder, predictor, target encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.config import Geometry, ModelConfig
from hjepa.masking import Masks
from hjepa.models.encoder import VisionTransformer, gather_tokens
from hjepa.models.levels import batch_mean, level_features, parent_cells
from hjepa.models.predictor import Predictor

# AdamW moves a weight by about the learning rate per step. A loss falls to a tenth within some hundred steps, so its
# log-scale must be able to move by about 2 in that time.
_SCALE_SPEED = 10.0


@dataclass
class JepaOutput:
    """Outputs of one pass, per level, finest first.

    Attributes:
        predictions: [K * B, Nt, D] each, with gradient; with ``model.predictor.predict_visible`` those of the visible
            cells follow, [K * B, Nt + Nc, D].
        targets: of the same shapes, layer-normalised without affine parameters, without gradient.
        pooled: mean over the visible tokens of the context encoder's features at each level, [K * B, D] each, with
            gradient; input of the regularisers.
        log_scales: logarithms of the scales of the levels' losses [L], with gradient; None if they are not learned.
    """

    predictions: list[Tensor]
    targets: list[Tensor]
    pooled: list[Tensor]
    log_scales: Tensor | None = None


class HJEPA(nn.Module):
    """I-JEPA (arXiv:2301.08243) with one or several levels.

    The *context encoder* sees only the visible tokens. The *target encoder*, an exponential moving average of it, sees
    the whole image. A *predictor* predicts the target encoder's features of the hidden cells at every level. At step 0
    the target encoder is an exact copy of the context encoder, including norms.

    Args:
        config: the ``model`` section.
        geometry: its resolved sizes.
        channels: input channels.
        learned_weights: whether the levels' losses have learned scales.

    Example:
        >>> import torch
        >>> from hjepa import create_hjepa
        >>> model = create_hjepa("vit_tiny_patch4_32", embed_dim=64, num_hierarchies=2)
        >>> [tuple(level.shape) for level in model(torch.zeros(1, 3, 32, 32))]
        [(1, 64, 64), (1, 64, 64)]
    """

    def __init__(
        self, config: ModelConfig, geometry: Geometry, channels: int = 3, *, learned_weights: bool = False
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.shared = config.predictor.sharing == "shared"
        self.center_targets = config.center_targets
        self.predict_visible = config.predictor.predict_visible
        # Set while this process runs a pass alone, which must not use collectives.
        self.alone = False
        self.context_encoder: VisionTransformer = VisionTransformer(config, geometry, channels)
        levels = range(len(geometry.levels))
        if self.shared:
            self.predictors = nn.ModuleList(
                [Predictor(config.predictor, geometry, levels, inputs=len(self.context_encoder.depths))]
            )
        else:
            top_down = config.predictor.coarse_to_fine
            self.predictors = nn.ModuleList(
                Predictor(config.predictor, geometry, [i], inputs=1, conditioned=top_down and i < levels[-1])
                for i in levels
            )
        # Here rather than in the objective, so that they are optimised, saved and distributed like all weights.
        self.loss_scales = nn.Parameter(torch.zeros(len(levels))) if learned_weights else None
        # Copied after all initialisation; an earlier copy would differ at step 0.
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)
        self.target_encoder.gradient_checkpointing = False

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.geometry.levels)

    @property
    def embed_dim(self) -> int:
        """Width of each level's features."""
        return self.geometry.embed_dim

    def train(self, mode: bool = True) -> HJEPA:
        """Training mode for context encoder and predictor; the target encoder stays in evaluation mode."""
        super().train(mode)
        self.target_encoder.eval()
        return self

    def forward(self, images: Tensor, masks: Masks | None = None) -> JepaOutput | list[Tensor]:
        """Predict hidden cells; without masks, encode whole images.

        Args:
            images: [B, C, H, W], normalised.
            masks: visible tokens and cells to predict.

        Returns:
            `JepaOutput`, or without masks the target encoder's features per level, [B, cells, D] each.
        """
        if masks is None:
            return self.target_encoder.levels(images)
        targets = self._targets(images, masks)
        if masks.sets_per_image > 1:
            images = images.repeat(masks.sets_per_image, *[1] * (images.dim() - 1))
        taps = self.context_encoder(images, masks.context)
        predictions = self._predict(taps, masks)
        pooled = {depth: tap.mean(dim=1) for depth, tap in taps.items()}
        return JepaOutput(
            predictions=[predictions[level] for level in range(self.num_levels)],
            targets=targets,
            pooled=[pooled[level.depth] for level in self.geometry.levels],
            log_scales=None if self.loss_scales is None else _SCALE_SPEED * self.loss_scales,
        )

    @torch.no_grad()
    def _targets(self, images: Tensor, masks: Masks) -> list[Tensor]:
        """Targets of every level. Images are encoded once, whatever the number of levels and mask sets."""
        features = level_features(self.target_encoder(images), self.geometry)
        if self.center_targets:
            features = [f - batch_mean(f, alone=self.alone) for f in features]
        if masks.sets_per_image > 1:
            features = [f.repeat(masks.sets_per_image, 1, 1) for f in features]
        return [
            F.layer_norm(gather_tokens(f, index), (f.shape[-1],))
            for f, index in zip(features, self._predicted_cells(masks), strict=True)
        ]

    def _predicted_cells(self, masks: Masks) -> list[Tensor]:
        """The cells of each level that the predictor outputs, hidden ones first."""
        if not self.predict_visible:
            return list(masks.targets)
        return [
            torch.cat([index, masks.context], dim=1) if level.stride == 1 else index
            for level, index in zip(self.geometry.levels, masks.targets, strict=True)
        ]

    def _predict(self, taps: dict[int, Tensor], masks: Masks) -> dict[int, Tensor]:
        if self.shared:
            context = torch.cat([taps[d] for d in self.context_encoder.depths], dim=-1)
            groups = [(levels, masks.targets[levels[0]]) for levels in masks.groups]
            shared: dict[int, Tensor] = self.predictors[0](context, masks.context, groups)
            return shared
        predictions: dict[int, Tensor] = {}
        for level in reversed(range(self.num_levels)):
            predictor = self.predictors[level]
            coarser = None
            if predictor.condition is not None:
                coarser = self._around(predictions[level + 1], level, masks)
            context = taps[self.geometry.levels[level].depth]
            predictions |= predictor(context, masks.context, [([level], masks.targets[level])], coarser)
        return predictions

    def _around(self, predicted: Tensor, level: int, masks: Masks) -> Tensor:
        """The predictions of the next coarser level for the parent cell of each target cell.

        Args:
            predicted: [B, Nt of the coarser level, D].

        Returns:
            [B, Nt of the level, D].
        """
        fine, coarse = self.geometry.level_grid(level), self.geometry.level_grid(level + 1)
        parent = parent_cells(masks.targets[level], fine, coarse)
        # Every target lies in a target of the coarser level, so every entry that is read has been written.
        grid = predicted.new_zeros(len(predicted), math.prod(coarse), predicted.shape[-1])
        index = masks.targets[level + 1].unsqueeze(-1).expand(-1, -1, predicted.shape[-1])
        predicted = predicted[:, : index.shape[1]]  # visible cells are not parents of targets
        return gather_tokens(grid.scatter(1, index, predicted), parent)

    def extract_features(
        self,
        images: Tensor,
        *,
        level: int | Literal["all"] = "all",
        depths: Sequence[int] | None = None,
        pool: Literal["mean", "none"] = "mean",
        encoder: Literal["target", "context"] = "target",
    ) -> Tensor:
        """Features of whole images for downstream use; see `hjepa.models.Encoder.extract_features`.

        Args:
            images, level, depths, pool: as there.
            encoder: `target`, the moving average (better features), or `context`, the trained encoder.
        """
        network = self.target_encoder if encoder == "target" else self.context_encoder
        return network.extract_features(images, level=level, depths=depths, pool=pool)
