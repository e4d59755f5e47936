"""InfoNCE over the cells of a batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Candidates beyond this many cost more than they teach: products grow with their number times that of predictions.
MAX_CANDIDATES = 1024
_IGNORED = -100


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
    cells = len(p)
    groups = _groups(cells)
    size = -(-cells // groups)
    absent = groups * size - cells  # the last groups may lack their last cell
    p, t = (F.pad(x, (0, 0, 0, absent)).view(size, groups, -1).transpose(0, 1) for x in (p, t))
    logits = p @ t.mT / temperature  # [groups, size, size]
    own = torch.arange(size, device=p.device).repeat(groups, 1)
    if absent:
        logits[-absent:, :, -1] = -torch.inf
        own[-absent:, -1] = _IGNORED
    return F.cross_entropy(logits.flatten(0, 1), own.flatten(), ignore_index=_IGNORED)


def _groups(cells: int) -> int:
    return -(-cells // MAX_CANDIDATES)


def chance_of_info_nce(cells: int) -> float:
    """The loss of picking blindly among the candidates of a batch with that many cells."""
    groups = _groups(cells)
    sizes = [len(range(first, cells, groups)) for first in range(groups)]
    return sum(size * math.log(size) for size in sizes) / cells
