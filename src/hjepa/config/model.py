"""``model``: encoder, levels, predictor and the target encoder's moving average."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hjepa.config.base import Section


def _above_zero(stride: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if isinstance(stride, tuple) and min(stride, default=0) < 1:
        raise ValueError("numbers in a list must be at least 1; for the whole image write 0 without a list")
    return stride


class LevelConfig(Section):
    """One level of the hierarchy."""

    depth: int = Field(ge=1)
    """Number of encoder blocks after which the level is tapped."""
    stride: Annotated[Annotated[int, Field(ge=0)] | tuple[int, ...], AfterValidator(_above_zero)] = 1
    """Side of the square of tokens that is averaged into one cell of this level (1 = no pooling), or a list with one
    number per axis: [rows, columns]. 0, for the last level only, averages the whole image into a single cell, which is
    always predicted from the visible tokens."""


class PredictorConfig(Section):
    """The narrow transformer that predicts the target encoder's features of hidden regions."""

    depth: int = Field(default=2, ge=1)
    """Number of transformer blocks."""
    embed_dim: int | None = Field(default=None, ge=8)
    """Width; the encoder's width when not given."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads; width/64 (at least one) when not given."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the hidden MLP layer as a multiple of the predictor's width."""
    sharing: Literal["shared", "separate"] = "shared"
    """`shared`: one predictor reads all levels of the context and has one output head per level. `separate`: one
    small predictor per level, which reads that level only."""
    predict_visible: bool = False
    """Also predict the target encoder's features of the visible cells (dense loss of V-JEPA 2.1, arXiv:2603.14482, here
    with equal weights), from the context token of each. Levels on pooled grids predict hidden cells only."""
    coarse_to_fine: bool = False
    """For `separate`: predict the coarsest level first, and pass the prediction for a cell to the queries of the next
    finer level inside it."""


class EmaConfig(Section):
    """The target encoder: an exponential moving average of the context encoder, updated once per optimiser step."""

    momentum: float = Field(default=0.996, ge=0, le=1)
    """Momentum at the start."""
    momentum_end: float = Field(default=1.0, ge=0, le=1)
    """Momentum at the end of training, reached on a cosine; constant if equal to `momentum`."""
    momentum_warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the momentum rises linearly from 0 to `momentum`, so that the target follows the fast early
    changes instead of staying close to the random initial weights."""


class ModelConfig(Section):
    """The networks."""

    encoder_type: str = "vit_tiny_patch16_224"
    """`vit_{tiny,small,base,large,huge}_patch{P}_{S}`; `data.image_size` overrides S."""
    embed_dim: int | None = Field(default=None, ge=8)
    """Width of the encoder; that of `encoder_type` when not given."""
    depth: int | None = Field(default=None, ge=1)
    """Number of encoder blocks; that of `encoder_type` when not given."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads; those of `encoder_type` when not given, or width/64 if only the width is changed."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the encoder's hidden MLP layer as a multiple of its width."""
    position: Literal["sincos", "rope"] = "sincos"
    """Fixed 2-D sine-cosine positions added to the patches, or axial rotary positions in every attention layer."""
    layer_scale: float | None = Field(default=None, gt=0)
    """Initial value of LayerScale; none when not given."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block; rises linearly from 0 at the first."""
    gradient_checkpointing: bool = False
    """Recompute the blocks of the context encoder in the backward pass: less memory, about a third more compute."""
    num_hierarchies: int = Field(default=2, ge=1, le=4)
    """Number of levels, 1 to 4; `levels` may list more. One level is flat I-JEPA, the baseline."""
    hierarchy: Literal["depths", "pooled", "both"] = "depths"
    """How levels are derived when `levels` is not given: from evenly spaced encoder depths, from 2-D pooled grids of
    the last depth, or from both at once. Level 0 is the finest."""
    levels: list[LevelConfig] | None = Field(default=None, min_length=1, max_length=8)
    """Explicit list of levels, finest first, up to eight; replaces `num_hierarchies` and `hierarchy`. Each is
    `{depth, stride}`; a stride is one number or `[rows, columns]`, and must divide that of the next level."""
    center_targets: bool = False
    """Subtract from every target the batch mean at its cell, before layer normalisation, so that nothing has to be
    predicted that follows from the position alone. Needs a batch of at least 2, preferably 32."""
    predictor: PredictorConfig = Field(default_factory=PredictorConfig)
    """The predictor."""
    ema: EmaConfig = Field(default_factory=EmaConfig)
    """The target encoder's moving average."""
