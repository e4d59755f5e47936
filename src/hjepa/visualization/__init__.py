"""Seeing a run: curves, masks, feature maps, neighbours, the embedding, and one report of it all.

Reads a run folder and images; never changes a checkpoint.
"""

from hjepa.visualization.visualize import visualize

__all__ = ["visualize"]
