"""InfoNCE over the cells of a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Candidates beyond this many cost more than they teach: products grow with their number times that of predictions.
MAX_CANDIDATES = 1024


def info_nce(prediction: Tensor, target: Tensor, temperature: float = 0.1) -> Tensor:
    """Pick the right target among the targets of the batch (CPC, arXiv:1807.03748).

    The candidates of a prediction are cells of all images, its own among them. With more than 1,024 cells in the
    batch every n-th one competes with every n-th other one: all predictions learn, each from fewer candidates.

    Args:
        prediction, target: [B, N, D].
        temperature: of the softmax over cosine similarities.

    Returns:
        scalar cross-entropy; ``log(number of candidates)`` is chance.
    """
    p = F.normalize(prediction.flatten(0, 1), dim=-1)
    t = F.normalize(target.flatten(0, 1), dim=-1)
    groups = _groups(len(p))
    losses = [_pick(p[first::groups], t[first::groups], temperature) for first in range(groups)]
    return torch.stack(losses).sum() / len(p)


def _pick(p: Tensor, t: Tensor, temperature: float) -> Tensor:
    own = torch.arange(len(p), device=p.device)
    return F.cross_entropy(p @ t.T / temperature, own, reduction="sum")


def _groups(cells: int) -> int:
    return -(-cells // MAX_CANDIDATES)


def chance_of_info_nce(cells: int) -> float:
    """The loss of picking blindly among the candidates of a batch with that many cells."""
    groups = _groups(cells)
    sizes = [len(range(first, cells, groups)) for first in range(groups)]
    return sum(size * math.log(size) for size in sizes) / cells
