"""Masks: which tokens are visible and which are predicted, drawn as index tensors for a whole batch at once."""

from hjepa.masking.masks import Masks
from hjepa.masking.sampler import MaskSampler, TokenCounts

__all__ = ["MaskSampler", "Masks", "TokenCounts"]
