"""How far features say where a cell lies rather than what it shows."""

from __future__ import annotations

from torch import Tensor


def position_share(tokens: Tensor) -> float | None:
    """How much of the variance of cell features the cell's position alone explains, over images.

    The share of variance between positions in a one-way layout, corrected for the number of images: 1 when a cell's
    features say only where it is, 0 when they say nothing of it.

    Args:
        tokens: [B, cells, D].

    Returns:
        0 to 1; nothing for fewer than two images, and for features that do not vary.
    """
    images, cells, _ = tokens.shape
    if images < 2 or cells < 2:
        return None
    values = tokens.double()
    within = float(values.var(dim=0, unbiased=True).sum(dim=-1).mean())
    total = float(values.flatten(0, 1).var(dim=0, unbiased=True).sum())
    scale = float(values.square().sum(dim=-1).mean())
    if total <= 1e-12 * scale:
        return None
    return min(1.0, max(0.0, 1 - within / total))
