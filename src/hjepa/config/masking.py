"""``masking``: which tokens the context encoder sees and which are predicted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hjepa.config.base import Section
from hjepa.config.data import PositiveRange, Range


class MaskingConfig(Section):
    """Multi-block masks as in I-JEPA (arXiv:2301.08243); the number of tokens is fixed within a run."""

    strategy: Literal["multiblock", "hierarchical", "random"] = "multiblock"
    """`multiblock`: the same hidden blocks for every level. `hierarchical`: coarser levels predict larger blocks around
    those of the finer ones. `random`: the same number of hidden tokens as `multiblock`, scattered."""
    num_masks: int = Field(default=4, ge=1)
    """Target blocks per image."""
    mask_scale: Range = (0.15, 0.2)
    """Area of a target block as a share of the image."""
    aspect_ratio: PositiveRange = (0.75, 1.5)
    """Aspect ratio (height over width) of a target block, drawn independently of its area."""
    num_context_masks: int = Field(default=1, ge=1)
    """Context blocks per image; the context encoder sees tokens of their union that are not in any target."""
    context_scale: Range = (0.85, 1.0)
    """Area of a context block as a share of the image."""
    sets_per_image: int = Field(default=1, ge=1)
    """Independent mask sets per image and step, which share one pass of the target encoder (data2vec 2.0,
    arXiv:2212.07525)."""
    level_growth: float = Field(default=1.5, ge=1)
    """For `hierarchical`: factor by which a block's area grows from one level to the next coarser one."""
