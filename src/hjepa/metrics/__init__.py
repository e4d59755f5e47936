"""Measures of features: k-NN, linear probe, effective rank, LiDAR, CKA, PCA, position share. Tensors in, numbers out."""

from hjepa.metrics.cka import cka_matrix, linear_cka
from hjepa.metrics.knn import accuracy, knn_predict, leave_one_out, nearest_neighbours
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

__all__ = [
    "L2_VALUES",
    "PCA",
    "LinearClassifier",
    "ProbeResult",
    "accuracy",
    "cka_matrix",
    "feature_std",
    "knn_predict",
    "leave_one_out",
    "lidar",
    "linear_cka",
    "linear_probe",
    "mean_cosine",
    "nearest_neighbours",
    "position_share",
    "rankme",
    "stratified_split",
]
