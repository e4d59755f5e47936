"""Floating-point operations of a training step, counted from the sizes of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hjepa.config import Geometry, ModelConfig


@dataclass(frozen=True)
class StepCost:
    """FLOP per image of one training step (a multiplication and an addition count as two).

    Only matrix products are counted; backward passes count twice their forward pass.

    Attributes:
        target: target encoder on all tokens, forward only.
        context: context encoder on the visible tokens, forward and backward.
        predictor: predictor on context and queries, forward and backward.
        tokens: tokens per image that each part works on.
    """

    target: float
    context: float
    predictor: float
    tokens: dict[str, int]

    @property
    def total(self) -> float:
        """All parts."""
        return self.target + self.context + self.predictor


def step_cost(
    model: ModelConfig,
    geometry: Geometry,
    channels: int,
    context_tokens: int,
    query_tokens: tuple[int, ...],
    groups: tuple[tuple[int, ...], ...],
    sets_per_image: int = 1,
) -> StepCost:
    """Count a training step.

    Args:
        model: the ``model`` section.
        geometry: its sizes.
        channels: input channels.
        context_tokens: visible tokens per image and mask set.
        query_tokens: predicted cells per level.
        groups: levels that share queries.
        sets_per_image: mask sets per image.
    """
    D, width = geometry.embed_dim, geometry.predictor_dim

    def encoder(tokens: int) -> float:
        embed = 2 * tokens * channels * math.prod(geometry.patch) * D
        return embed + geometry.depth * _block(tokens, D, model.mlp_ratio)

    depth, ratio = model.predictor.depth, model.predictor.mlp_ratio
    # Cells of each level that context tokens answer for, beside the queries.
    visible = [context_tokens * (model.predictor.predict_visible and level.stride == 1) for level in geometry.levels]
    if model.predictor.sharing == "shared":
        inputs = len({level.depth for level in geometry.levels})
        queries = sum(query_tokens[group[0]] for group in groups)
        sequence = context_tokens + queries
        forward = 2 * context_tokens * inputs * D * width + _predictor_blocks(
            depth, sequence, queries + max(visible), width, ratio
        )
        forward += sum(2 * (n + seen) * width * D for n, seen in zip(query_tokens, visible, strict=True))
    else:
        queries = sum(query_tokens)
        sequence = len(query_tokens) * context_tokens + queries
        forward = sum(
            2 * context_tokens * D * width
            + _predictor_blocks(depth, context_tokens + n, n + seen, width, ratio)
            + 2 * (n + seen) * width * D
            for n, seen in zip(query_tokens, visible, strict=True)
        )
        if model.predictor.coarse_to_fine:
            forward += sum(2 * n * D * width for n in query_tokens[:-1])
    return StepCost(
        target=encoder(geometry.num_tokens),
        context=3 * encoder(context_tokens) * sets_per_image,
        predictor=3 * forward * sets_per_image,
        tokens={
            "target": geometry.num_tokens,
            "context": context_tokens * sets_per_image,
            "queries": queries * sets_per_image,
            "predictor": sequence * sets_per_image,
        },
    )


def _predictor_blocks(depth: int, tokens: int, answers: int, width: int, mlp_ratio: float) -> float:
    """Forward FLOP of a predictor's blocks, the last of which answers only for the tokens that are read."""
    hidden = int(width * mlp_ratio)
    # Keys and values of all tokens; queries, output projection, MLP and attention of those that answer.
    last = 2 * width * (tokens * 2 * width + answers * (2 * width + 2 * hidden)) + 4 * answers * tokens * width
    return (depth - 1) * _block(tokens, width, mlp_ratio) + last


def _block(tokens: int, width: int, mlp_ratio: float) -> float:
    """Forward FLOP of a transformer block: four square projections, two of the MLP, two attention products."""
    hidden = int(width * mlp_ratio)
    return 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens * tokens * width
