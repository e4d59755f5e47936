"""Assemble a batch from cropped images: views, targets, checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import ImageDataset
from hjepa.data.images.crops import Crops
from hjepa.data.images.decode import UnreadableImageError, unit_scale
from hjepa.data.images.target_crops import seen_in_views
from hjepa.data.loading.batch import View
from hjepa.data.targets import Target, Targets, collate_targets
from hjepa.data.views import ViewSpec
from hjepa.errors import DataError, UserError


def check_statistics(dataset: ImageDataset, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise `UserError` unless ``mean`` and ``std`` have one value per channel."""
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != dataset.channels:
            raise UserError(
                f"data.{key}: has {len(values)} values, but the images have {dataset.channels} channels; give one per "
                "channel, or set data.channels"
            )


def check_targets(dataset: ImageDataset, wanted: bool) -> Targets | None:
    """The targets of a data set if they are wanted, else None; raises `UserError` if the data set has none."""
    if not wanted:
        return None
    if dataset.targets is None:
        raise UserError(
            f"data.dataset={dataset.name}: targets were requested, but the images have no labels or other targets; set "
            "data.labels_file, use a data set with labels, or do not request targets"
        )
    return dataset.targets


def make_view(images: Tensor, crops: Crops, sizes: np.ndarray, colours: np.ndarray | None, spec: ViewSpec) -> View:
    """Build a `View` from finished images and their augmentation parameters.

    Args:
        images: float32 [B, C, H, W], normalised.
        crops: crop boxes, in pixels of the original images.
        sizes: int64 [B, 2], height and width of the original images.
        colours: float32 [B, 6] as in `View.colours`, or None.
        spec: specification of the view.
    """
    boxes = (crops.boxes / np.concatenate([sizes, sizes], axis=1)).astype(np.float32)
    changed = None if colours is None else torch.from_numpy(colours)
    return View(images, torch.from_numpy(boxes), torch.from_numpy(crops.flips), changed, spec.name)


def unit(images: Tensor, device: torch.device) -> Tensor:
    """Move images of workers, [B, C, H, W] uint8 or float32, to the device as float32 in [0, 1]."""
    images = images.to(device, non_blocking=True)
    return images.to(torch.float32).mul_(unit_scale(torch.uint8)) if images.dtype == torch.uint8 else images


def read_targets(
    dataset: ImageDataset,
    targets: Targets,
    indices: Tensor,
    crops: Sequence[Crops],
    sizes: np.ndarray,
    views: Sequence[ViewSpec],
) -> Target:
    """Read the targets of a batch whose images are cropped in this process.

    Args:
        dataset: the data set, to name the image in errors.
        targets: targets of the data set.
        indices: int64 [B], the images.
        crops: crop boxes per view.
        sizes: int64 [B, 2], height and width of the images.
        views: one specification per view.

    Returns:
        The targets, on the CPU.

    Raises:
        DataError: a target that cannot be read.
    """
    boxes = np.stack([crop.boxes for crop in crops], axis=1)
    flips = np.stack([crop.flips for crop in crops], axis=1)
    seen = []
    for index, box, flip, size in zip(indices.tolist(), boxes.tolist(), flips.tolist(), sizes.tolist(), strict=True):
        try:
            seen.append(seen_in_views(targets.read(index), box, flip, size, views))
        except UnreadableImageError as error:
            raise DataError(f"{dataset.identifiers[index]}: {error}; repair or remove the target") from None
    return collate_targets(targets.kind, seen)
