"""The parts of a training step that a configuration describes, and what they ask of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from hjepa.masking import MaskSampler
from hjepa.objectives import Objective
from hjepa.runtime import distribution

if TYPE_CHECKING:
    from hjepa.config import Config

# Statistics of a batch with fewer rows say too little about variance and covariance.
SMALLEST_REGULARISED_BATCH = 16


def build_sampler(config: Config) -> MaskSampler:
    """The mask sampler of a configuration. Raises `UserError` when the grid is too small for its masks."""
    geometry = config.geometry()
    strides = [level.stride for level in geometry.levels]
    return MaskSampler(config.masking, geometry.grid, strides, seed=config.seed)


def build_objective(
    config: Config, *, gather: Callable[[Tensor], Tensor] | None = distribution.gather_rows
) -> Objective:
    """The objective of a configuration.

    Args:
        config: the configuration.
        gather: collects features from all processes; none looks at this process's alone.
    """
    loss = config.loss
    levels = len(config.geometry().levels)
    return Objective(
        loss.type,
        loss.hierarchy_weights or [1.0] * levels,
        normalize=loss.normalize_embeddings,
        temperature=loss.temperature,
        variance=loss.variance_loss_weight,
        covariance=loss.covariance_loss_weight,
        sliced_gaussian=loss.sliced_gaussian_weight,
        regularise_all=loss.regularised_levels == "all",
        gather=gather,
        seed=config.seed,
    )


def compares_images(config: Config) -> bool:
    """Whether the loss has terms that compare the images of a micro-batch with each other."""
    loss = config.loss
    regularised = loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight
    return bool(regularised) or loss.type == "infonce" or config.model.center_targets


def fewest_images(config: Config, processes: int) -> int:
    """Images that a forward pass of one process needs, so that such terms mean something."""
    loss = config.loss
    if loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight:
        return -(-SMALLEST_REGULARISED_BATCH // (processes * config.masking.sets_per_image))
    return 2 if config.model.center_targets else 1
