"""Measures of features: k-NN, linear probe, effective rank, LiDAR, CKA, PCA, position share. Tensors in, numbers out."""

from hjepa.metrics.cka import cka_matrix, linear_cka
from hjepa.metrics.knn import accuracy, knn_predict, nearest_neighbours
from hjepa.metrics.lidar import lidar
from hjepa.metrics.linear_probe import (
    L2_VALUES,
    LinearClassifier,
    ProbeResult,
    linear_probe,
    stratified_split,
)
from hjepa.metrics.pca import PCA
from hjepa.metrics.position import position_share
from hjepa.metrics.rank import feature_std, mean_cosine, rankme
from hjepa.metrics.segmentation import SegmentationScores, confusion_matrix, segmentation_scores

__all__ = [
    "L2_VALUES",
    "PCA",
    "LinearClassifier",
    "ProbeResult",
    "SegmentationScores",
    "accuracy",
    "cka_matrix",
    "confusion_matrix",
    "feature_std",
    "knn_predict",
    "lidar",
    "linear_cka",
    "linear_probe",
    "mean_cosine",
    "nearest_neighbours",
    "position_share",
    "rankme",
    "segmentation_scores",
    "stratified_split",
]
