"""Generated scenes as a data set: maps of classes, or boxes."""

from __future__ import annotations

from typing import Literal

import torch

from hjepa.data.dataset import ImageDataset, MemoryPixels, Split
from hjepa.data.dense.dense_set import DenseSet
from hjepa.data.scenes import MASK_CLASSES, VERSION, generate_scenes
from hjepa.data.shapes import CLASSES
from hjepa.data.targets import ListedTargets

NAME = "shape_scenes"


def build(
    kind: Literal["dense", "boxes"], image_size: tuple[int, int], channels: int, *, train: int, test: int
) -> DenseSet:
    """Scenes at the size of the model's input.

    Args:
        kind: ``dense`` for maps of classes (0 is the background), ``boxes`` for objects.
        image_size: height and width in pixels.
        channels: colour channels.
        train, test: number of scenes.

    Raises:
        ValueError: the size is below 16 pixels.
    """
    splits: dict[Split, int] = {"train": train, "test": test}
    built = {split: _split(kind, split, count, image_size, channels) for split, count in splits.items()}
    classes = MASK_CLASSES if kind == "dense" else CLASSES
    description = f"generated scenes v{VERSION}, {image_size[0]}x{image_size[1]}"
    return DenseSet(NAME, description, built["train"], built["test"], classes)


def _split(
    kind: Literal["dense", "boxes"], split: Split, count: int, image_size: tuple[int, int], channels: int
) -> ImageDataset:
    scenes = generate_scenes(count, image_size=image_size, split=split, channels=channels)
    targets = ListedTargets(kind, scenes.masks.to(torch.int32) if kind == "dense" else scenes.objects)
    return ImageDataset(
        MemoryPixels(scenes.images),
        name=NAME,
        split=split,
        channels=channels,
        identifiers=[f"{NAME}/{split}/{index}" for index in range(count)],
        targets=targets,
    )
