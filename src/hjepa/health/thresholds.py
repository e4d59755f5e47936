"""Thresholds shared by rules and evaluation."""

from __future__ import annotations

# Effective rank as a share of the feature dimension, below which a representation is considered collapsing.
HEALTHY_RANK = 0.05
