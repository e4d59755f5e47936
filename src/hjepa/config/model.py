"""``model``: encoder, levels, predictor and the target encoder's moving average."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hjepa.config.base import Section


def _above_zero(stride: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if isinstance(stride, tuple) and min(stride, default=0) < 1:
        raise ValueError("a list has a number of at least 1 per axis; write 0 without a list for the whole image")
    return stride


class LevelConfig(Section):
    """One level of the hierarchy."""

    depth: int = Field(ge=1)
    """Number of encoder blocks after which the level is tapped."""
    stride: Annotated[Annotated[int, Field(ge=0)] | tuple[int, ...], AfterValidator(_above_zero)] = 1
    """Side of the square of tokens that is averaged into one cell of this level (1 = no pooling), or a list with one
    number per axis: [rows, columns]. 0 averages the whole image into a single cell, which is always predicted, from whatever
    part the context shows; for the last level."""


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
    """Predict, beside the hidden cells, what the target encoder with its view of the whole image thinks of the visible
    ones (dense loss of V-JEPA 2.1, arXiv:2603.14482, here with equal weights). Context tokens answer for themselves; levels
    on pooled grids predict hidden cells only."""
    coarse_to_fine: bool = False
    """For `separate`: the coarsest level is predicted first, and what was predicted for a cell is given to the queries
    of the next finer level inside it."""


class EmaConfig(Section):
    """The target encoder: an exponential moving average of the context encoder, updated once per optimiser step."""

    momentum: float = Field(default=0.996, ge=0, le=1)
    """Momentum at the start."""
    momentum_end: float = Field(default=1.0, ge=0, le=1)
    """Momentum at the end of training, reached on a cosine. Equal to `momentum`: constant."""
    momentum_warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the momentum rises linearly from 0 to `momentum`, so that the target follows the fast first
    steps instead of holding on to random weights."""


class ModelConfig(Section):
    """The networks."""

    encoder_type: str = "vit_tiny_patch16_224"
    """`vit_{tiny,small,base,large,huge}_patch{P}_{S}`; `data.image_size` wins over S."""
    embed_dim: int | None = Field(default=None, ge=8)
    """Width of the encoder, in place of the named one."""
    depth: int | None = Field(default=None, ge=1)
    """Number of encoder blocks, in place of the named one."""
    num_heads: int | None = Field(default=None, ge=1)
    """Attention heads, in place of the named ones; width/64 when only the width is overridden."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    """Width of the encoder's hidden MLP layer as a multiple of its width."""
    position: Literal["sincos", "rope"] = "sincos"
    """Fixed 2-D sine-cosine positions added to the patches, or axial rotary positions in every attention layer."""
    layer_scale: float | None = Field(default=None, gt=0)
    """Initial value of LayerScale; none when not given."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block; rises linearly from 0 at the first."""
    gradient_checkpointing: bool = False
    """Recompute the blocks of the context encoder in the backward pass: less memory, about a third more work."""
    num_hierarchies: int = Field(default=2, ge=1, le=4)
    """Number of levels, 1 to 4; `levels` may list more. One level is flat I-JEPA, the control."""
    hierarchy: Literal["depths", "pooled", "both"] = "depths"
    """How levels are derived when `levels` is not given: from evenly spaced encoder depths, from 2-D pooled grids of
    the last depth, or from both at once. Level 0 is the finest."""
    levels: list[LevelConfig] | None = Field(default=None, min_length=1, max_length=8)
    """The levels themselves, finest first, up to eight; replaces `num_hierarchies` and `hierarchy`. Each is
    `{depth, stride}`; a stride is one number or `[rows, columns]`, and divides that of the next level."""
    center_targets: bool = False
    """Subtract from every target the batch's mean at its cell, before layer normalisation: what the position alone
    tells is then no part of what has to be predicted. Needs a batch of at least 2, better 32."""
    predictor: PredictorConfig = Field(default_factory=PredictorConfig)
    """The predictor."""
    ema: EmaConfig = Field(default_factory=EmaConfig)
    """The target encoder's moving average."""
