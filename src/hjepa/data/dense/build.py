"""Build a data set with dense targets by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from hjepa.data.dense import ade20k, coco, mask_folder, scene_set, voc
from hjepa.data.dense.dense_set import DenseSet
from hjepa.errors import DataError, UserError

SEGMENTATION_SETS = (scene_set.NAME, "ade20k", "voc", "masks")
DETECTION_SETS = (scene_set.NAME, "coco")


def build_dense(
    name: str,
    path: Path | None,
    kind: Literal["dense", "boxes"],
    *,
    image_size: tuple[int, int],
    channels: int,
    train_images: int,
    test_images: int,
    seed: int,
) -> DenseSet:
    """A data set for segmentation (``dense``) or detection (``boxes``).

    Args:
        name: one of `SEGMENTATION_SETS` or `DETECTION_SETS`.
        path: where it is; not used for generated scenes.
        kind: which targets.
        image_size: height and width of generated scenes.
        channels: channels to convert to.
        train_images, test_images: number of generated scenes to fit on and to score; those for validation come on top.
        seed: draws test images where a folder has none.

    Raises:
        UserError: an unknown name, a missing path, a layout that is not the named one, or too small an image size.
    """
    known = SEGMENTATION_SETS if kind == "dense" else DETECTION_SETS
    key = "segmentation" if kind == "dense" else "detection"
    if name not in known:
        raise UserError(f"evaluation.{key}.dataset: unknown data set {name!r}; use {', '.join(known)}")
    if name == scene_set.NAME:
        try:
            # A tenth of the training images is withheld for validation.
            return scene_set.build(kind, image_size, channels, train=math.ceil(train_images / 0.9), test=test_images)
        except ValueError as error:
            raise UserError(f"evaluation.{key}.dataset={name}: {error}; use images of your own") from None
    if path is None:
        raise UserError(f"evaluation.{key}.data_path: missing; say where {name} is")
    if not path.expanduser().is_dir():
        raise DataError(f"evaluation.{key}.data_path: {path} is not a folder; say where {name} is")
    root = path.expanduser()
    if name == "ade20k":
        return ade20k.find(root, channels)
    if name == "voc":
        return voc.find(root, channels)
    return coco.find(root, channels) if name == "coco" else mask_folder.find(root, channels, seed)
