"""Images: sources, splits, integrity, storage, crops and batches. Depends on files and tensors, not on models."""

from hjepa.data.build import build_dataset
from hjepa.data.convenience import build_dataloader
from hjepa.data.dataset import BadFile, ImageDataset, Split
from hjepa.data.integrity import Duplicate, IntegrityReport, SplitReport, check_dataset, duplicates
from hjepa.data.loading.batch import Batch, View
from hjepa.data.loading.eval_loader import EvalLoader, eval_batches
from hjepa.data.loading.loader import TrainLoader
from hjepa.data.splits import Splits, build_splits
from hjepa.data.statistics import measure_statistics
from hjepa.data.synthetic import random_dataset
from hjepa.data.targets import Boxes, ListedTargets, Sample, Target, Targets
from hjepa.data.views import ViewSpec, default_views

__all__ = [
    "BadFile",
    "Batch",
    "Boxes",
    "Duplicate",
    "EvalLoader",
    "ImageDataset",
    "IntegrityReport",
    "ListedTargets",
    "Sample",
    "Split",
    "SplitReport",
    "Splits",
    "Target",
    "Targets",
    "TrainLoader",
    "View",
    "ViewSpec",
    "build_dataloader",
    "build_dataset",
    "build_splits",
    "check_dataset",
    "default_views",
    "duplicates",
    "eval_batches",
    "measure_statistics",
    "random_dataset",
]
