"""Floating-point operations of the networks in a training step, counted from their sizes.

`hjepa.training.cost` adds loss and optimiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hjepa.config import Geometry, ModelConfig


@dataclass(frozen=True)
class StepCost:
    """FLOP per image of one training step (a multiplication and an addition count as two).

    All matrix products are counted, and nothing else: backward passes take twice the products of their forward pass,
    less where no gradient is asked for. AdamW, the moving average, norms, activations and losses that compare number by
    number are not products and are left out; so is what gradient checkpointing computes a second time.

    Attributes:
        target: target encoder on all tokens, forward only.
        context: context encoder on the visible tokens, forward and backward.
        predictor: predictor on context and queries, forward and backward.
        tokens: tokens per image that each part works on.
        loss: InfoNCE's logits, the covariance term and the projections of the sliced test, forward and backward.
        optimizer: Muon's products of an update, divided among its images.
        hidden: rows and columns of the matrices that Muon would orthogonalise.
    """

    target: float
    context: float
    predictor: float
    tokens: dict[str, int]
    loss: float = 0.0
    optimizer: float = 0.0
    hidden: tuple[tuple[int, int], ...] = ()

    @property
    def parts(self) -> dict[str, float]:
        """FLOP per image by part."""
        names = ("target", "context", "predictor", "loss", "optimizer")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.parts.values())


def answered_cells(
    model: ModelConfig, geometry: Geometry, context_tokens: int, query_tokens: tuple[int, ...]
) -> tuple[int, ...]:
    """Cells of each level that the predictor answers for: those that are asked for, and with ``predict_visible`` those
    that are seen."""
    seen = context_tokens if model.predictor.predict_visible else 0
    return tuple(n + seen * (level.stride == 1) for n, level in zip(query_tokens, geometry.levels, strict=True))


def step_cost(
    model: ModelConfig,
    geometry: Geometry,
    channels: int,
    context_tokens: int,
    query_tokens: tuple[int, ...],
    groups: tuple[tuple[int, ...], ...],
    sets_per_image: int = 1,
) -> StepCost:
    """Count the networks of a training step, with neither loss nor optimiser.

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

    def embed(tokens: int) -> float:
        return 2 * tokens * channels * math.prod(geometry.patch) * D

    def blocks(tokens: int) -> float:
        return geometry.depth * _block(tokens, D, model.mlp_ratio)

    depth, ratio = model.predictor.depth, model.predictor.mlp_ratio
    answers = answered_cells(model, geometry, context_tokens, query_tokens)
    # Cells of each level that context tokens answer for, beside the queries.
    visible = [n - asked for n, asked in zip(answers, query_tokens, strict=True)]
    if model.predictor.sharing == "shared":
        inputs = len({level.depth for level in geometry.levels})
        queries = sum(query_tokens[group[0]] for group in groups)
        sequence = context_tokens + queries
        forward = 2 * context_tokens * inputs * D * width + _predictor_blocks(
            depth, sequence, queries + max(visible), width, ratio
        )
        forward += sum(2 * n * width * D for n in answers)
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
        target=embed(geometry.num_tokens) + blocks(geometry.num_tokens),
        # Images need no gradient.
        context=(2 * embed(context_tokens) + 3 * blocks(context_tokens)) * sets_per_image,
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
