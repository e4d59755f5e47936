"""How much of the variance of cell features is explained by position rather than content."""

from __future__ import annotations

from torch import Tensor


def position_share(tokens: Tensor) -> float | None:
    """Share of the variance of cell features that the cell's position alone explains.

    The share of variance between positions in a one-way layout, corrected for the number of images: 1 if features
    depend on position only, 0 if they do not depend on it.

    Args:
        tokens: [B, cells, D].

    Returns:
        0 to 1; None for fewer than two images or cells, and for constant features.
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
