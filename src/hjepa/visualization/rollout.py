"""Attention followed through several blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rollout(weights: Sequence[Tensor]) -> list[Tensor]:
    """Attention rollout (Abnar and Zuidema, 2020, arXiv:2005.00928, section 3).

    The weights of a block are averaged over its heads. The residual connection carries a token past the attention, so it
    counts as attention of a token to itself with the weight 1/2. The product of these matrices over the blocks says which
    share of a token after the last of them comes from which input token, as far as attention alone tells; MLPs and the
    sizes of values are ignored.

    Args:
        weights: per block [B, heads, N, N], query by key, each row with sum 1.

    Returns:
        for every block [B, N, N], output token by input token, after this block; each row sums to 1.

    Raises:
        ValueError: no blocks.
    """
    if not weights:
        raise ValueError("rollout needs the attention weights of at least one block")
    own = torch.eye(weights[0].shape[-1], device=weights[0].device)
    found: list[Tensor] = []
    for block in weights:
        step = (block.float().mean(dim=1) + own) / 2
        found.append(step if not found else step @ found[-1])
    return found
