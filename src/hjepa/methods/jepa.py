"""Joint-embedding predictive methods: H-JEPA with several levels, I-JEPA with one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hjepa.config.grid import by, shown
from hjepa.errors import UserError
from hjepa.masking import Masks, MaskSampler
from hjepa.methods.method import Method, StepOutput
from hjepa.methods.moving_average import MovingAverage, ema_momentum
from hjepa.models import JepaOutput, build_model
from hjepa.models.cost import StepCost, answered_cells, step_cost
from hjepa.objectives import Candidates, LossTerms, Objective, Peers
from hjepa.objectives.info_nce import flop_of_info_nce
from hjepa.objectives.regularisers import flop_of_covariance, flop_of_sliced_gaussian
from hjepa.runtime import distribution

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import Batch
    from hjepa.models import Encoder

# With fewer rows the estimates of variance and covariance are too noisy.
SMALLEST_REGULARISED_BATCH = 16
_ALONE = "training.accumulation_steps does not help, as the loss is computed per micro-batch"


class HJepa(Method):
    """Predict an EMA target encoder's features of hidden cells at several levels (I-JEPA, arXiv:2301.08243, has one).

    Args:
        config: the configuration; sections ``model``, ``masking`` and ``loss`` describe the method.
        channels: input channels.

    Attributes:
        model: context encoder, predictor and target encoder.
        masks: draws the visible tokens and the cells to predict.
        objective: loss per level, and regularisers.
    """

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__(config, channels)
        self.model = build_model(config, channels)
        self.masks = build_sampler(config)
        self.objective = build_objective(config)
        self._objective_alone = build_objective(config, gather=None)
        self._average = MovingAverage(self.model.context_encoder, self.model.target_encoder)
        self._targets: Sequence[Tensor] = ()
        self.compares_images = _is_regularised(config) or config.model.center_targets

    @classmethod
    def check(cls, config: Config, processes: int) -> None:
        """Check that the masks fit their grid, and that a micro-batch has enough images for terms that compare them.

        Raises:
            UserError: too few images, or the masks do not fit; the message names the keys.
        """
        build_sampler(config)
        rows = config.data.batch_size * processes * config.masking.sets_per_image
        if _is_regularised(config) and rows < SMALLEST_REGULARISED_BATCH:
            raise UserError(
                f"data.batch_size: {_there(config, processes)} gives the variance, covariance and Gaussian terms {rows} images, but "
                f"they need {SMALLEST_REGULARISED_BATCH}; raise data.batch_size ({_ALONE}) or set their weights to 0"
            )
        cls.check_candidates(config, processes)

    @staticmethod
    def check_candidates(config: Config, processes: int) -> None:
        """Check that a micro-batch has as many images as `infonce` takes candidates from.

        Raises:
            UserError: too few images; the message names the keys.
        """
        images, wanted = config.data.batch_size * processes, config.loss.candidate_images
        if config.loss.type == "infonce" and images < wanted:
            raise UserError(
                f"data.batch_size: {_there(config, processes)} is fewer than loss.candidate_images={wanted}; set "
                f"loss.candidate_images to at most {images} or raise data.batch_size ({_ALONE})"
            )

    @property
    def encoder(self) -> Encoder:
        """The target encoder."""
        return self.model.target_encoder

    @property
    def weights(self) -> nn.Module:
        """The model; everything else is a function of the configuration."""
        return self.model

    def networks(self) -> Sequence[nn.Module]:
        """Both encoders and the predictors."""
        return [self.model.context_encoder, self.model.target_encoder, *self.model.predictors]

    def plan(self, step: int, positions: range) -> Masks:
        """The masks of a micro-batch."""
        return self.masks(step, positions)

    def forward(self, batch: Batch, plan: Masks, step: int) -> StepOutput:
        """Encode the visible tokens, predict the hidden cells, and compare with the targets."""
        self.model.alone = self.solo
        output = cast(JepaOutput, self.model(batch.images, plan))
        objective = self._objective_alone if self.solo else self.objective
        terms: LossTerms = objective(
            output.predictions, output.targets, output.pooled, log_scales=output.log_scales, step=step
        )
        self._targets = output.targets
        levels = {f"loss/level_{i}": value for i, value in enumerate(terms.levels.unbind())}
        return StepOutput(
            total=terms.total,
            terms=levels | terms.regularisers,
            checks={
                "target": _finite(output.targets),
                "prediction": _finite([p.detach() for p in output.predictions]),
            },
        )

    def after_update(self, step: int, made: Tensor | None = None) -> None:
        """Update the target encoder."""
        self._average(self.hyperparameters(step)["momentum"], made)

    def hyperparameters(self, step: int) -> dict[str, float]:
        """The momentum of the moving average."""
        assert self.horizon is not None
        momentum = ema_momentum(self.config.model.ema, self.horizon, step)
        return {"momentum": momentum if self.momentum_gap == 1 else 1 - self.momentum_gap * (1 - momentum)}

    def diagnostics(self) -> dict[str, Tensor]:
        """Chance level of each level's loss: the loss of a prediction independent of the image."""
        return {f"chance/level_{i}": value for i, value in enumerate(self.objective.chance(self._targets).unbind())}

    def fewest_images(self, processes: int) -> int:
        """Minimum number of images per forward pass of one process, for the terms that compare images."""
        config = self.config
        fewest = 2 if config.model.center_targets else 1
        if _is_regularised(config):
            fewest = max(fewest, -(-SMALLEST_REGULARISED_BATCH // (processes * config.masking.sets_per_image)))
        if config.loss.type == "infonce":
            fewest = max(fewest, -(-config.loss.candidate_images // processes))
        return fewest

    @classmethod
    def cost(cls, config: Config, channels: int, *, processes: int = 1) -> StepCost:
        """FLOP per image of encoders, predictor and loss, added over all processes."""
        cls.check_candidates(config, processes)
        masks = build_sampler(config)
        geometry, counts, sets = config.geometry(), masks.counts, config.masking.sets_per_image
        networks = step_cost(config.model, geometry, channels, counts.context, counts.targets, masks.groups, sets)
        cells = answered_cells(config.model, geometry, counts.context, counts.targets)
        images = config.data.batch_size * processes
        loss = _loss_flop(config, cells, processes) / images
        return replace(networks, loss=loss, hidden=_hidden_matrices(config))

    def describe(self) -> list[str]:
        """Model size, levels, numbers of visible tokens and predicted cells."""
        geometry, counts = self.model.geometry, self.masks.counts
        size = sum(p.numel() for p in self.model.context_encoder.parameters()) / 1e6
        levels = ", ".join(
            f"depth {level.depth} " + (f"stride {shown(level.stride)}" if level.stride else "whole image")
            for level in geometry.levels
        )
        visible = " and the visible tokens" if self.config.model.predictor.predict_visible else ""
        return [
            f"encoder {geometry.embed_dim} x {geometry.depth}, {size:.1f} M parameters, "
            f"{by(geometry.grid)} tokens; levels: {levels}",
            f"each image: {counts.context} of {geometry.num_tokens} tokens seen, "
            f"{'/'.join(map(str, counts.targets))} cells predicted{visible}",
        ]


class IJepa(HJepa):
    """I-JEPA (arXiv:2301.08243): one level after the last block."""

    @classmethod
    def check(cls, config: Config, processes: int) -> None:
        """Check as `HJepa.check`, and refuse more than one level."""
        levels = len(config.geometry().levels)
        if levels > 1:
            raise UserError(
                f"method: ijepa has one level, but the configuration has {levels}; set model.num_hierarchies=1 and remove "
                "model.levels, or use method=hjepa"
            )
        super().check(config, processes)


def build_sampler(config: Config) -> MaskSampler:
    """The mask sampler of a configuration. Raises `UserError` if the grid is too small for its masks."""
    geometry = config.geometry()
    strides = [level.stride for level in geometry.levels]
    return MaskSampler(config.masking, geometry.grid, strides, seed=config.seed)


def build_objective(
    config: Config, *, gather: Callable[[Tensor], Tensor] | None = distribution.gather_rows
) -> Objective:
    """The objective of a configuration.

    Args:
        config: the configuration.
        gather: collects features from all processes. None uses this process's features only; where other processes'
            targets are needed, its own are repeated instead, so that memory use is the same without collectives.
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
    """The candidates of `infonce`."""
    return Candidates(config.loss.candidate_images, config.loss.candidate_cells, config.masking.sets_per_image)


def _there(config: Config, processes: int) -> str:
    return f"{config.data.batch_size}" + (f" in each of {processes} processes" if processes > 1 else "")


def _loss_flop(config: Config, cells: tuple[int, ...], processes: int) -> float:
    """FLOP of the objective on one micro-batch, forward and backward, added over all processes.

    Every process compares its own predictions, but computes the regularisers on the gathered rows of all.
    """
    loss, width, images = config.loss, config.geometry().embed_dim, config.data.batch_size * processes
    flop = 0.0
    if loss.type == "infonce":
        flop += sum(flop_of_info_nce(images, n, width, candidates(config)) for n in cells)
    rows = images * config.masking.sets_per_image
    levels = len(cells) if loss.regularised_levels == "all" else 1
    if loss.covariance_loss_weight:
        flop += processes * levels * flop_of_covariance(rows, width)
    if loss.sliced_gaussian_weight:
        flop += processes * levels * flop_of_sliced_gaussian(rows, width)
    return flop


def _hidden_matrices(config: Config) -> tuple[tuple[int, int], ...]:
    """Rows and columns of the matrices inside the trained transformer blocks."""
    geometry, predictor = config.geometry(), config.model.predictor

    def block(width: int, mlp_ratio: float) -> list[tuple[int, int]]:
        # Queries, keys, values and output projection are square; the MLP has a matrix up and one down.
        hidden = int(width * mlp_ratio)
        return [(width, width)] * 4 + [(hidden, width), (width, hidden)]

    predictors = 1 if predictor.sharing == "shared" else len(geometry.levels)
    encoder = block(geometry.embed_dim, config.model.mlp_ratio) * geometry.depth
    return tuple(encoder + block(geometry.predictor_dim, predictor.mlp_ratio) * predictor.depth * predictors)


def _is_regularised(config: Config) -> bool:
    loss = config.loss
    return bool(loss.variance_loss_weight or loss.covariance_loss_weight or loss.sliced_gaussian_weight)


def _finite(levels: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.isfinite(level).all() for level in levels])
