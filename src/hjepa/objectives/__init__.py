"""Distances, regularisers and their weighted sum: functions from tensors to scalars."""

from hjepa.objectives.distances import cosine_loss, l1, mse, smooth_l1
from hjepa.objectives.info_nce import Candidates, Peers, info_nce
from hjepa.objectives.objective import LossTerms, Objective, level_loss
from hjepa.objectives.regularisers import covariance_loss, sliced_gaussian_loss, variance_loss

__all__ = [
    "Candidates",
    "LossTerms",
    "Objective",
    "Peers",
    "cosine_loss",
    "covariance_loss",
    "info_nce",
    "l1",
    "level_loss",
    "mse",
    "sliced_gaussian_loss",
    "smooth_l1",
    "variance_loss",
]
