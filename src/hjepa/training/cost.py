"""FLOP of a whole training step: networks, loss and optimiser."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hjepa.models.cost import StepCost, answered_cells, step_cost
from hjepa.objectives.info_nce import flop_of_info_nce
from hjepa.objectives.sliced_gaussian import flop_of_sliced_gaussian
from hjepa.objectives.variance_covariance import flop_of_covariance
from hjepa.training.muon import flop_of_orthogonalising
from hjepa.training.parts import build_sampler, candidates, check_candidates

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.masking import MaskSampler


def training_cost(config: Config, channels: int, masks: MaskSampler | None = None, *, processes: int = 1) -> StepCost:
    """Count a training step of a configuration, whole.

    Args:
        config: the configuration.
        channels: input channels.
        masks: its mask sampler; made when not given.
        processes: that share a batch.

    Raises:
        UserError: a grid too small for the masks, or a batch with too few images for InfoNCE.
    """
    check_candidates(config, processes)
    masks = masks or build_sampler(config)
    geometry, counts, sets = config.geometry(), masks.counts, config.masking.sets_per_image
    networks = step_cost(config.model, geometry, channels, counts.context, counts.targets, masks.groups, sets)
    cells = answered_cells(config.model, geometry, counts.context, counts.targets)
    images = config.data.batch_size * processes
    updates = 1 / (images * config.training.accumulation_steps)
    return replace(
        networks,
        loss=_loss(config, geometry.embed_dim, cells, images) / images,
        optimizer=_orthogonalising(config) * updates,
    )


def _loss(config: Config, width: int, cells: tuple[int, ...], images: int) -> float:
    """FLOP of the objective on one micro-batch, forward and backward, as one process computes it."""
    loss = config.loss
    flop = 0.0
    if loss.type == "infonce":
        flop += sum(flop_of_info_nce(images, n, width, candidates(config)) for n in cells)
    rows = images * config.masking.sets_per_image
    levels = len(cells) if loss.regularised_levels == "all" else 1
    if loss.covariance_loss_weight:
        flop += levels * flop_of_covariance(rows, width)
    if loss.sliced_gaussian_weight:
        flop += levels * flop_of_sliced_gaussian(rows, width)
    return flop


def _orthogonalising(config: Config) -> float:
    """FLOP of the matrix products of one update: Muon's, for the matrices inside of transformer blocks."""
    if config.training.optimizer != "muon":
        return 0.0
    geometry, predictor = config.geometry(), config.model.predictor
    encoder = _block(geometry.embed_dim, config.model.mlp_ratio) * geometry.depth
    predictors = 1 if predictor.sharing == "shared" else len(geometry.levels)
    return encoder + predictors * predictor.depth * _block(geometry.predictor_dim, predictor.mlp_ratio)


def _block(width: int, mlp_ratio: float) -> float:
    """Queries, keys, values and output projection are square; the MLP has a matrix up and one down."""
    hidden = int(width * mlp_ratio)
    return 4 * flop_of_orthogonalising(width, width) + 2 * flop_of_orthogonalising(hidden, width)
