"""The whole objective: one loss per level, and regularisers on pooled features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hjepa.objectives.distances import ELEMENTWISE, cosine_loss, elementwise_loss
from hjepa.objectives.info_nce import Candidates, Peers, chance_of_info_nce, info_nce
from hjepa.objectives.regularisers import covariance_loss, sliced_gaussian_loss, variance_loss


@dataclass
class LossTerms:
    """The loss of one micro-batch, and its terms.

    Attributes:
        total: scalar with gradient, the weighted sum of all terms.
        levels: unweighted loss per level, detached [L].
        regularisers: unweighted terms by name, detached scalars.
    """

    total: Tensor
    levels: Tensor
    regularisers: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Weighted sum of the levels' losses and of the regularisers.

    Regularisers use the context encoder's features of the coarsest level (or of every level, averaged), pooled over the
    visible tokens of one micro-batch and gathered over processes. Everything is computed in float32: autocast, which
    would compute the products of InfoNCE and of the regularisers in bf16, is disabled inside.

    Args:
        loss: `smoothl1`, `mse`, `l1`, `cosine` or `infonce`.
        level_weights: one per level, finest first.
        normalize: compare unit vectors.
        temperature, candidates: for `infonce`; see `info_nce`.
        peers: for `infonce`, the processes that share a batch.
        variance, covariance, sliced_gaussian: weights of the regularisers.
        regularise_all: regularise every level instead of the coarsest.
        gather: collects [B, D] features from all processes, with gradient for the local part.
        seed: seed of the random directions of the sliced test.
    """

    level_weights: Tensor

    def __init__(
        self,
        loss: str,
        level_weights: Sequence[float],
        *,
        normalize: bool = False,
        temperature: float = 0.1,
        candidates: Candidates | None = None,
        peers: Peers | None = None,
        variance: float = 0.0,
        covariance: float = 0.0,
        sliced_gaussian: float = 0.0,
        regularise_all: bool = False,
        gather: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = loss
        # A buffer, so that it moves with the networks; not saved, as it is a function of the configuration.
        self.register_buffer("level_weights", torch.tensor(tuple(level_weights), dtype=torch.float32), persistent=False)
        self.normalize = normalize
        self.temperature = temperature
        self.candidates = candidates
        self.peers = peers
        self.weights = {"variance": variance, "covariance": covariance, "sliced_gaussian": sliced_gaussian}
        self.regularise_all = regularise_all
        self.gather = gather
        self.seed = seed

    def forward(
        self,
        predictions: Sequence[Tensor],
        targets: Sequence[Tensor],
        pooled: Sequence[Tensor],
        *,
        log_scales: Tensor | None = None,
        step: int = 0,
    ) -> LossTerms:
        """Evaluate.

        Args:
            predictions, targets: per level [B, Nt, D]; of several mask sets, set by set.
            pooled: per level [B, D].
            log_scales: logarithms of the scales by which the levels' losses are divided [L]. They are added to the
                losses, since otherwise ever larger scales would minimise the total; at the optimum each is the
                logarithm of its loss (uncertainty weighting, Kendall et al., arXiv:1705.07115, eq. 10 up to a factor).
            step: optimiser step, for random directions.
        """
        with _exact(predictions[0].device):
            return self._evaluate(
                [p.float() for p in predictions],
                [t.float() for t in targets],
                [p.float() for p in pooled],
                None if log_scales is None else log_scales.float(),
                step,
            )

    def _evaluate(
        self,
        predictions: Sequence[Tensor],
        targets: Sequence[Tensor],
        pooled: Sequence[Tensor],
        log_scales: Tensor | None,
        step: int,
    ) -> LossTerms:
        per_level = torch.stack([self._level(p, t) for p, t in zip(predictions, targets, strict=True)])
        scaled = per_level if log_scales is None else per_level * (-log_scales).exp() + log_scales
        total = (scaled * self.level_weights).sum()
        terms = self._regularisers(pooled if self.regularise_all else pooled[-1:], step)
        for name, term in terms.items():
            total = total + self.weights[name] * term
        return LossTerms(
            total=total,
            levels=per_level.detach(),
            regularisers={name: term.detach() for name, term in terms.items()},
        )

    def _level(self, prediction: Tensor, target: Tensor) -> Tensor:
        return level_loss(
            prediction,
            target,
            self.loss,
            normalize=self.normalize,
            temperature=self.temperature,
            candidates=self.candidates,
            peers=self.peers,
        )

    def _regularisers(self, levels: Sequence[Tensor], step: int) -> dict[str, Tensor]:
        if not any(self.weights.values()):
            return {}
        seed = (self.seed * 1_000_003 + step) % 2**63
        found: dict[str, list[Tensor]] = {name: [] for name, weight in self.weights.items() if weight}
        for level in levels:
            features = level if self.gather is None else self.gather(level)
            if self.weights["variance"]:
                found["variance"].append(variance_loss(features))
            if self.weights["covariance"]:
                found["covariance"].append(covariance_loss(features))
            if self.weights["sliced_gaussian"]:
                found["sliced_gaussian"].append(sliced_gaussian_loss(features, seed=seed))
        return {name: torch.stack(terms).mean() for name, terms in found.items()}

    @torch.no_grad()
    def chance(self, targets: Sequence[Tensor]) -> Tensor:
        """Chance level of each level's loss [L]: the loss of a predictor that always outputs the batch's mean target.

        A loss at chance level means that nothing specific to the image is predicted. If the targets collapse, chance
        falls to zero together with the loss; the loss alone would look like success. For `infonce` chance is the
        logarithm of the number of candidates.
        """
        with _exact(targets[0].device):
            return torch.stack([self._chance(t.float()) for t in targets])

    def _chance(self, target: Tensor) -> Tensor:
        if self.loss == "infonce":
            return torch.tensor(chance_of_info_nce(target.shape[1], self.candidates), device=target.device)
        # For losses on unit vectors the best constant prediction is the mean direction.
        on_sphere = self.normalize or self.loss == "cosine"
        constant = (torch.nn.functional.normalize(target, dim=-1) if on_sphere else target).mean(dim=(0, 1))
        guess = constant.expand_as(target)
        return self._level(guess, target)


def _exact(device: torch.device) -> torch.autocast:
    """Context that disables autocast, so that products of float32 tensors stay in float32."""
    return torch.autocast(device.type, enabled=False)


def level_loss(
    prediction: Tensor,
    target: Tensor,
    loss: str,
    *,
    normalize: bool,
    temperature: float,
    candidates: Candidates | None = None,
    peers: Peers | None = None,
) -> Tensor:
    """The loss of one level as a scalar; see `Objective` for the arguments.

    Raises:
        ValueError: an unknown loss.
    """
    if loss in ELEMENTWISE:
        return elementwise_loss(ELEMENTWISE[loss], prediction, target, normalize=normalize)
    if loss == "cosine":
        return cosine_loss(prediction, target)
    if loss == "infonce":
        return info_nce(prediction, target, temperature, candidates=candidates, peers=peers)
    raise ValueError(f"loss {loss!r} is not known; use {', '.join([*ELEMENTWISE, 'cosine', 'infonce'])}")
