"""Data sets with a class per pixel (segmentation) or boxes (detection): generated scenes, ADE20K, VOC, COCO, folders."""

from hjepa.data.dense.build import DETECTION_SETS, SEGMENTATION_SETS, build_dense
from hjepa.data.dense.dense_set import IGNORED, DenseSet

__all__ = ["DETECTION_SETS", "IGNORED", "SEGMENTATION_SETS", "DenseSet", "build_dense"]
