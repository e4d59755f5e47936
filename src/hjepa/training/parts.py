"""The parts of a training step that a configuration describes, and what they ask of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from hjepa.errors import UserError
from hjepa.masking import MaskSampler
from hjepa.objectives import Candidates, Objective, Peers
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
        gather: collects features from all processes; none looks at this process's alone, and takes its targets for those
            of the others, where it needs theirs: as many bytes, and no exchange.
    """
    loss = config.loss
    processes = distribution.size()
    peers = Peers(
        distribution.rank(),
        processes,
        distribution.gather_constant if gather is not None else lambda x: x.repeat(processes, 1, 1),
    )
    levels = len(config.geometry().levels)
    return Objective(
        loss.type,
        loss.hierarchy_weights or [1.0] * levels,
        normalize=loss.normalize_embeddings,
        temperature=loss.temperature,
        candidates=candidates(config),
        peers=peers,
        variance=loss.variance_loss_weight,
        covariance=loss.covariance_loss_weight,
        sliced_gaussian=loss.sliced_gaussian_weight,
        regularise_all=loss.regularised_levels == "all",
        gather=gather,
        seed=config.seed,
    )


def candidates(config: Config) -> Candidates:
    """With what `infonce` compares a prediction."""
    return Candidates(config.loss.candidate_images, config.loss.candidate_cells, config.masking.sets_per_image)


def compares_images(config: Config) -> bool:
    """Whether the loss has terms that compare all images of a micro-batch with each other. `infonce` compares a fixed
    number of them, whatever the micro-batch."""
    return _is_regularised(config) or config.model.center_targets


def _is_regularised(config: Config) -> bool:
    loss = config.loss
    return bool(loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight)


def fewest_images(config: Config, processes: int) -> int:
    """Images that a forward pass of one process needs, so that terms that compare images have enough of them."""
    fewest = 2 if config.model.center_targets else 1
    if _is_regularised(config):
        fewest = max(fewest, -(-SMALLEST_REGULARISED_BATCH // (processes * config.masking.sets_per_image)))
    if config.loss.type == "infonce":
        fewest = max(fewest, -(-config.loss.candidate_images // processes))
    return fewest


def check_batch(config: Config, processes: int) -> None:
    """Check that a micro-batch has images enough for the terms that compare them.

    Raises:
        UserError: it has too few; the message names the keys.
    """
    images = config.data.batch_size * processes
    rows = images * config.masking.sets_per_image
    there = f"{config.data.batch_size}" + (f" in each of {processes} processes" if processes > 1 else "")
    alone = "training.accumulation_steps does not help, the terms are computed per micro-batch"
    if _is_regularised(config) and rows < SMALLEST_REGULARISED_BATCH:
        raise UserError(
            f"data.batch_size: {there} gives the variance, covariance and Gaussian terms {rows} images, and they need "
            f"{SMALLEST_REGULARISED_BATCH}; raise data.batch_size ({alone}) or set their weights to 0"
        )
    wanted = config.loss.candidate_images
    if config.loss.type == "infonce" and images < wanted:
        raise UserError(
            f"data.batch_size: {there} is fewer images than loss.candidate_images={wanted} that infonce compares a "
            f"prediction with; set loss.candidate_images to at most {images} or raise data.batch_size ({alone})"
        )
