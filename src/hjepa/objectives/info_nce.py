"""InfoNCE over the cells of a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Candidates beyond this many cost more than they teach; the list is thinned evenly.
MAX_CANDIDATES = 2048


def info_nce(prediction: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    """Pick the right target among the targets of the batch (CPC, arXiv:1807.03748).

    The candidates of a prediction are cells of all images, its own among them. With more than 2,048 cells in the
    batch every n-th one takes part.

    Args:
        prediction, target: [B, N, D].
        temperature: of the softmax over cosine similarities.

    Returns:
        scalar cross-entropy; ``log(number of candidates)`` is chance.
    """
    p = F.normalize(prediction.flatten(0, 1), dim=-1)
    t = F.normalize(target.flatten(0, 1), dim=-1)
    step = -(-len(p) // MAX_CANDIDATES)
    p, t = p[::step], t[::step]
    return F.cross_entropy(p @ t.T / temperature, torch.arange(len(p), device=p.device))


def chance_of_info_nce(cells: int) -> float:
    """The loss of picking blindly among the candidates of a batch with that many cells."""
    step = -(-cells // MAX_CANDIDATES)
    return math.log(-(-cells // step))
