"""The narrow transformer that predicts the target encoder's features of hidden cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hjepa.config import Geometry, PerAxis, PredictorConfig
from hjepa.config.grid import per_axis, shown
from hjepa.models.blocks import NORM_EPS, Block, init_transformer
from hjepa.models.positions import sincos


class Predictor(nn.Module):
    """Predicts all hidden cells of an image in one sequence: context tokens, then one query per cell.

    A query is a learned mask token plus the cell's position. Levels that predict the same cells share their queries
    and differ in the output head only, so an additional such level costs one linear layer.

    Args:
        config: the ``model.predictor`` section.
        geometry: sizes of the model.
        levels: indices of the levels it predicts.
        inputs: number of encoder taps that it reads, concatenated.
        conditioned: whether queries receive the predictions of the next coarser level.
    """

    def __init__(
        self,
        config: PredictorConfig,
        geometry: Geometry,
        levels: Sequence[int],
        inputs: int,
        *,
        conditioned: bool = False,
    ) -> None:
        super().__init__()
        dim = geometry.predictor_dim
        self.levels = tuple(levels)
        self.strides = [geometry.levels[level].stride for level in levels]
        self.predict_visible = config.predict_visible and 1 in self.strides
        self.embed = nn.Linear(inputs * geometry.embed_dim, dim)
        for stride in {1, *self.strides}:
            self.register_buffer(f"positions_{shown(stride)}", sincos(dim, geometry.grid, stride), persistent=False)
        names = [shown(stride) for stride in sorted(set(self.strides), key=lambda s: per_axis(s, geometry.axes))]
        self.mask_tokens = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in names})
        self.blocks = nn.ModuleList(Block(dim, geometry.predictor_heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.heads = nn.ModuleDict({str(level): nn.Linear(dim, geometry.embed_dim) for level in levels})
        self.condition = nn.Linear(geometry.embed_dim, dim) if conditioned else None
        init_transformer(self)
        for token in self.mask_tokens.values():
            nn.init.trunc_normal_(token, std=0.02)

    def forward(
        self,
        context: Tensor,
        context_index: Tensor,
        groups: Sequence[tuple[Sequence[int], Tensor]],
        coarser: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Predict.

        Args:
            context: features of the visible tokens, [B, Nc, inputs * D].
            context_index: their row-major indices, int64 [B, Nc].
            groups: (levels, cell indices int64 [B, Nt] on those levels' grid) for each set of shared queries.
            coarser: for a conditioned predictor of one level, the next coarser level's predictions for the parent cells
                of its targets, [B, Nt, D].

        Returns:
            level -> predicted features [B, Nt, D]; with `predict_visible`, on the token grid [B, Nt + Nc, D], those of
            the visible cells last.
        """
        sequence = [self.embed(context) + self._positions(1)[context_index]]
        for levels, index in groups:
            stride = self._stride(levels)
            queries = self.mask_tokens[shown(stride)] + self._positions(stride)[index]
            if self.condition is not None and coarser is not None:
                queries = queries + self.condition(coarser)
            sequence.append(queries)
        x = torch.cat(sequence, dim=1)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        asked = [index.shape[1] for _, index in groups]
        # Unless the context tokens are read, the last block computes the queries only.
        x = last(x, first=0 if self.predict_visible else context.shape[1])
        seen_tokens, *hidden = x.split([x.shape[1] - sum(asked), *asked], dim=1)
        predictions: dict[int, Tensor] = {}
        for (levels, _), queries in zip(groups, hidden, strict=True):
            answers = queries
            if self.predict_visible and self._stride(levels) == 1:
                answers = torch.cat([queries, seen_tokens], dim=1)
            answers = self.norm(answers)
            for level in levels:
                predictions[level] = self.heads[str(level)](answers)
        return predictions

    def _stride(self, levels: Sequence[int]) -> PerAxis:
        """The stride shared by levels with common queries."""
        return self.strides[self.levels.index(levels[0])]

    def _positions(self, stride: PerAxis) -> Tensor:
        return self.get_buffer(f"positions_{shown(stride)}")
