"""Measures of features: k-NN, linear probe, effective rank, LiDAR, CKA, PCA, position share. Tensors in, numbers out."""

from hjepa.metrics.calibration import Calibration, calibration, fit_temperature
from hjepa.metrics.cka import cka_matrix, linear_cka
from hjepa.metrics.confusion import ClassScores, class_scores, confusion_matrix, frequent_confusions
from hjepa.metrics.episodes import Episodes, centred_unit, draw_episodes, episode_accuracy, interval
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
from hjepa.metrics.segmentation import SegmentationScores, pixel_confusion, segmentation_scores
from hjepa.metrics.uniformity import alignment, uniformity

__all__ = [
    "L2_VALUES",
    "PCA",
    "Calibration",
    "ClassScores",
    "Episodes",
    "LinearClassifier",
    "ProbeResult",
    "SegmentationScores",
    "accuracy",
    "alignment",
    "calibration",
    "centred_unit",
    "cka_matrix",
    "class_scores",
    "confusion_matrix",
    "draw_episodes",
    "episode_accuracy",
    "feature_std",
    "fit_temperature",
    "frequent_confusions",
    "interval",
    "knn_predict",
    "leave_one_out",
    "lidar",
    "linear_cka",
    "linear_probe",
    "mean_cosine",
    "nearest_neighbours",
    "pixel_confusion",
    "position_share",
    "rankme",
    "segmentation_scores",
    "stratified_split",
    "uniformity",
]
