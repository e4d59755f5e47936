"""Limits below which a figure counts as trouble."""

from __future__ import annotations

# Below this share of its width a representation counts as collapsing, whatever else is best about it.
HEALTHY_RANK = 0.05
