"""COCO detection (Lin et al., ECCV 2014): a JSON of instances and a folder of images per split."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from hjepa.data.dataset import ImageDataset, Split
from hjepa.data.dense.dense_set import DenseSet, existing, file_dataset
from hjepa.data.targets import Boxes, ListedTargets
from hjepa.errors import DataError

_LAYOUT = "the COCO layout: annotations/instances_train*.json and instances_val*.json, train* and val* with images"


def find(root: Path, channels: int) -> DenseSet:
    """``instances_train*.json`` to fit on, ``instances_val*.json`` to report on.

    The images are in the folder of the same name (``train2017`` for ``instances_train2017.json``). Regions marked as
    crowds have no single object and are left out. Category numbers are mapped to 0, 1, ... in ascending order.

    Args:
        root: the folder that holds ``annotations``.
        channels: channels to convert to.

    Raises:
        DataError: a part of the layout is missing, a JSON is not one of instances, or the splits have other categories.
    """
    train, classes = _split(root, "train", "train", channels)
    test, other = _split(root, "test", "val", channels)
    if classes != other:
        raise DataError(f"{root}: the categories of training and validation differ; use files of one data set")
    return DenseSet("coco", f"COCO detection, {len(classes)} classes", train, test, classes)


def _split(root: Path, split: Split, word: str, channels: int) -> tuple[ImageDataset, tuple[str, ...]]:
    folder = existing(root, _LAYOUT, "annotations")
    files = sorted(folder.glob(f"instances_{word}*.json"))
    if not files:
        raise DataError(f"{folder / f'instances_{word}*.json'}: not found; expected {_LAYOUT}")
    file = files[-1]
    images = existing(root, _LAYOUT, file.stem.removeprefix("instances_"))
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        names, objects, classes = _read(tree)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{file}: not a COCO file of instances ({reason}); download it again") from None
    targets = ListedTargets("boxes", objects)
    return file_dataset("coco", split, images, names, targets, channels=channels, description="COCO"), classes


def _read(tree: dict[str, Any]) -> tuple[list[str], list[Boxes], tuple[str, ...]]:
    """File names, their objects, and the names of the categories."""
    categories = sorted(tree["categories"], key=lambda category: category["id"])
    number = {category["id"]: place for place, category in enumerate(categories)}
    found: defaultdict[int, list[tuple[list[float], int]]] = defaultdict(list)
    for entry in tree["annotations"]:
        left, top, width, height = (float(value) for value in entry["bbox"])
        if not entry.get("iscrowd", 0) and width > 0 and height > 0:
            found[entry["image_id"]].append(([top, left, height, width], number[entry["category_id"]]))
    names, objects = [], []
    for image in sorted(tree["images"], key=lambda entry: entry["id"]):
        own = found[image["id"]]
        boxes = torch.tensor([box for box, _ in own], dtype=torch.float32).reshape(-1, 4)
        names.append(image["file_name"])
        objects.append(Boxes(boxes, torch.tensor([label for _, label in own], dtype=torch.int64)))
    return names, objects, tuple(category["name"] for category in categories)
