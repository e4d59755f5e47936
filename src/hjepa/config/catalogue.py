"""Table of the supported data sets: sizes, origin and licence."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One data set."""

    name: str
    """``data.dataset``."""
    train: str
    """Training images."""
    test: str
    """Test images."""
    pixels: str
    """Height x width x channels."""
    classes: str
    """Number of classes."""
    origin: str
    """Where the images come from."""
    terms: str
    """Licence, and whether it is downloaded."""


CATALOGUE = (
    Entry("shapes", "20,000", "4,000", "any size", "6", "generated", "part of hjepa, nothing to download"),
    Entry(
        "digits",
        "1,438",
        "359",
        "8x8x1",
        "10",
        "ships with scikit-learn",
        "CC BY 4.0, nothing to download; seeded split",
    ),
    Entry(
        "cifar10",
        "50,000",
        "10,000",
        "32x32x3",
        "10",
        "cs.toronto.edu",
        "no licence stated, cite Krizhevsky 2009; downloaded (170 MB)",
    ),
    Entry(
        "cifar100",
        "50,000",
        "10,000",
        "32x32x3",
        "100",
        "cs.toronto.edu",
        "no licence stated, cite Krizhevsky 2009; downloaded (169 MB)",
    ),
    Entry(
        "stl10",
        "105,000 (5,000 with labels)",
        "8,000",
        "96x96x3",
        "10",
        "ai.stanford.edu",
        "images from ImageNet, research only; downloaded (2.6 GB)",
    ),
    Entry(
        "imagenet100",
        "about 127,000",
        "5,000",
        "varying, 3",
        "100",
        "data.data_path",
        "research only, download manually from image-net.org; data.classes_file names the classes",
    ),
    Entry(
        "imagenet",
        "1,281,167",
        "50,000",
        "varying, 3",
        "1000",
        "data.data_path",
        "research only, download manually from image-net.org",
    ),
    Entry("folder", "your own", "your own", "any", "folders or CSV", "data.data_path", "yours"),
    Entry("parquet", "your own", "your own", "any", "label column", "data.data_path or hub name", "yours"),
    Entry("webdataset", "your own", "your own", "any", ".cls or .json", "data.data_path or web address", "yours"),
)
