"""``loss``: the distance between prediction and target, and regularisers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hjepa.config.base import Section


class LossConfig(Section):
    """The objective."""

    type: Literal["smoothl1", "mse", "l1", "cosine", "infonce"] = "smoothl1"
    """Distance between predictions and layer-normalised targets. Use `infonce` for photographs, `smoothl1` for the
    built-in set `shapes`; `l1` is unmeasured."""
    hierarchy_weights: list[Annotated[float, Field(ge=0)]] | None = None
    """Weight of each level, finest first; all 1 when not given."""
    hierarchy_weighting: Literal["fixed", "learned"] = "fixed"
    """`learned`: each level's loss is divided by a scale trained with the model, so that levels are weighted by the
    relative decrease of their loss (uncertainty weighting, arXiv:1705.07115); `hierarchy_weights` still apply."""
    normalize_embeddings: bool = False
    """L2-normalise predictions and targets, and sum the loss over the width instead of averaging. With `mse` this equals
    twice `cosine`. Unmeasured."""
    temperature: float = Field(default=0.1, gt=0)
    """For `infonce`: temperature of the softmax."""
    candidate_images: int = Field(default=64, ge=2)
    """For `infonce`: images whose targets a prediction is compared with, including its own. They are consecutive in the
    micro-batch of all processes, which must have at least as many; batch size and number of processes do not change
    their number."""
    candidate_cells: int = Field(default=14, ge=1)
    """For `infonce`: cells per image that a prediction is compared with, including its own; all if a level has fewer. The
    presets were measured with the defaults of this key and of `candidate_images` (two processes of 64 images, 27 cells a
    level); other numbers are unmeasured."""
    variance_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of VICReg's variance term (arXiv:2105.04906) on mean-pooled context features of the coarsest level.
    Added once to the sum of the levels' losses, so the same weight has more effect with fewer levels."""
    covariance_loss_weight: float = Field(default=0.0, ge=0)
    """Weight of VICReg's covariance term on the same features."""
    sliced_gaussian_weight: float = Field(default=0.0, ge=0)
    """Weight of the sliced test against a standard normal distribution on the same features (after LeJEPA,
    arXiv:2511.08544)."""
    regularised_levels: Literal["coarsest", "all"] = "coarsest"
    """Levels whose features the terms above apply to; with `all` they are averaged over levels."""
