"""Images: sources, splits, integrity, storage, crops and batches. Knows files and tensors, never models."""

from hjepa.data.build import build_dataset
from hjepa.data.convenience import build_dataloader
from hjepa.data.dataset import BadFile, ImageDataset, Split
from hjepa.data.integrity import Duplicate, IntegrityReport, SplitReport, check_dataset, duplicates
from hjepa.data.loading.eval_loader import EvalLoader, eval_batches
from hjepa.data.loading.loader import Batch, TrainLoader
from hjepa.data.splits import Splits, build_splits
from hjepa.data.statistics import measure_statistics
from hjepa.data.synthetic import random_dataset

__all__ = [
    "BadFile",
    "Batch",
    "Duplicate",
    "EvalLoader",
    "ImageDataset",
    "IntegrityReport",
    "Split",
    "SplitReport",
    "Splits",
    "TrainLoader",
    "build_dataloader",
    "build_dataset",
    "build_splits",
    "check_dataset",
    "duplicates",
    "eval_batches",
    "measure_statistics",
    "random_dataset",
]
