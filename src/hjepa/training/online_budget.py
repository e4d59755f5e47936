"""How many images an online evaluation may encode, so that all of them together take at most 3 % of a run's time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hjepa.training.cost import counted_cost

if TYPE_CHECKING:
    from hjepa.config import Config

SHARE_OF_TIME = 0.03
"""Share of the training time that all online evaluations together may take."""
# Share that the encoding is planned to take: the rest is for ranks, k-NN and preparing images.
_PLANNED = 0.026
# A training step over the encoding of its images, for methods that do not count their FLOP.
_USUAL_RATIO = 3.0
FEWEST = 40
"""Images that are used however little time there is."""


def affordable_images(config: Config, images: int, channels: int, processes: int = 1) -> tuple[int, int]:
    """Images of one online evaluation, from sizes alone, so that a resumed run uses the same ones.

    Args:
        config: the configuration.
        images: number of training images.
        channels: input channels.
        processes: number of processes that train together.

    Returns:
        images whose health is measured, at every evaluation and before the first step; and images that are encoded in all
        at every evaluation.
    """
    epochs = config.training.epochs
    evaluations = math.ceil(epochs / config.evaluation.eval_frequency)
    affordable = _PLANNED * _ratio(config, channels, processes) * images * epochs
    measured = min(config.health.images, max(FEWEST, int(affordable / (evaluations + 1))))
    return measured, max(measured, int((affordable - measured) / evaluations))


def _ratio(config: Config, channels: int, processes: int) -> float:
    """FLOP per image of a training step over those of the encoder on a whole image."""
    cost = counted_cost(config, channels, processes=processes)
    return _USUAL_RATIO if cost is None or cost.target <= 0 else cost.total / cost.target
