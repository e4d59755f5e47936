"""Floating-point operations of the networks in a training step, computed from their sizes.

`hjepa.training.cost` adds loss and optimiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hjepa.config import Geometry, ModelConfig


@dataclass(frozen=True)
class StepCost:
    """FLOP per image of one training step (a multiplication and an addition count as two), added over all processes.

    Only matrix products are counted. A backward pass takes twice the products of its forward pass, or fewer where an
    input needs no gradient. AdamW, the moving average, norms, activations and element-wise losses are not counted, nor
    is the recomputation of gradient checkpointing.

    Attributes:
        target: target encoder on all tokens, forward only.
        context: context encoder on the visible tokens, forward and backward.
        predictor: predictor on context and queries, forward and backward.
        tokens: tokens per image that each part processes.
        loss: InfoNCE logits, covariance term and sliced-test projections, forward and backward. Every process computes the
            last two on the images of all.
        optimizer: Muon's products, divided by the images of an update; on GPUs every process computes all of them.
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
        """FLOP per image of all parts."""
        return sum(self.parts.values())


def answered_cells(
    model: ModelConfig, geometry: Geometry, context_tokens: int, query_tokens: tuple[int, ...]
) -> tuple[int, ...]:
    """Number of cells that the predictor outputs for each level: the hidden ones, and with ``predict_visible`` also the
    visible ones."""
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
    """Count the FLOP of the networks in a training step, without loss and optimiser.

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
    # Outputs of each level that come from context tokens rather than queries.
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
        # The images need no gradient, so the patch embedding's backward pass has one product less.
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
    """Forward FLOP of a predictor's blocks; the last one computes only the tokens that are read."""
    hidden = int(width * mlp_ratio)
    # Keys and values of all tokens; queries, attention, output projection and MLP of the tokens that are read.
    last = 2 * width * (tokens * 2 * width + answers * (2 * width + 2 * hidden)) + 4 * answers * tokens * width
    return (depth - 1) * _block(tokens, width, mlp_ratio) + last


def _block(tokens: int, width: int, mlp_ratio: float) -> float:
    """Forward FLOP of a transformer block: four square projections, two of the MLP, two attention products."""
    hidden = int(width * mlp_ratio)
    return 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens * tokens * width
