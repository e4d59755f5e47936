"""Which tokens are seen and which are predicted: index tensors drawn for a whole batch at once."""

from hjepa.masking.masks import Masks
from hjepa.masking.sampler import MaskSampler, TokenCounts

__all__ = ["MaskSampler", "Masks", "TokenCounts"]
