"""PASCAL VOC segmentation (Everingham et al., IJCV 2010) in its own layout, as torchvision extracts it."""

from __future__ import annotations

from pathlib import Path

from hjepa.data.dataset import ImageDataset, Split
from hjepa.data.dense.dense_set import DenseSet, existing, file_dataset
from hjepa.data.dense.mask_files import MaskFiles

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_LAYOUT = "the VOC layout: JPEGImages, SegmentationClass and ImageSets/Segmentation"


def find(root: Path, channels: int) -> DenseSet:
    """The images of ``ImageSets/Segmentation``: ``train.txt`` to fit on, ``val.txt`` to report on.

    Args:
        root: a folder such as ``VOC2012``, or one that contains ``VOCdevkit/VOC2012``.
        channels: channels to convert to.

    Raises:
        DataError: a part of the layout is missing.
    """
    nested = sorted((root / "VOCdevkit").glob("VOC*")) + sorted(root.glob("VOC[0-9]*"))
    home = root if (root / "JPEGImages").is_dir() or not nested else nested[-1]
    return DenseSet(
        "voc",
        f"PASCAL VOC segmentation, {home.name}",
        _split(home, "train", "train", channels),
        _split(home, "test", "val", channels),
        CLASSES,
    )


def _split(home: Path, split: Split, listed: str, channels: int) -> ImageDataset:
    file = existing(home, _LAYOUT, "ImageSets", "Segmentation", f"{listed}.txt")
    existing(home, _LAYOUT, "JPEGImages")
    existing(home, _LAYOUT, "SegmentationClass")
    names = file.read_text(encoding="utf-8").split()
    masks = MaskFiles(home, tuple(f"SegmentationClass/{name}.png" for name in names))
    images = [f"JPEGImages/{name}.jpg" for name in names]
    return file_dataset("voc", split, home, images, masks, channels=channels, description="PASCAL VOC segmentation")
