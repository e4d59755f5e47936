"""Figures and report of a run: curves, masks, feature maps, nearest neighbours and embedding.

Reads a run folder and images; does not change checkpoints.
"""

from hjepa.visualization.visualize import visualize

__all__ = ["visualize"]
