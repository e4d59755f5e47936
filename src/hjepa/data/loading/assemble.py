"""From images that are cut to a finished batch."""

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
    """One value per channel, or a `UserError`."""
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != dataset.channels:
            raise UserError(
                f"data.{key}: has {len(values)} values, but the images have {dataset.channels} channels; give one per "
                "channel, or set data.channels"
            )


def check_targets(dataset: ImageDataset, wanted: bool) -> Targets | None:
    """The targets of a data set where they are wanted, or a `UserError` where there are none."""
    if not wanted:
        return None
    if dataset.targets is None:
        raise UserError(
            f"data.dataset={dataset.name}: its images have no labels or other targets, and targets were asked for; give "
            "data.labels_file or a set with labels, or do not ask for them"
        )
    return dataset.targets


def make_view(images: Tensor, crops: Crops, sizes: np.ndarray, colours: np.ndarray | None, spec: ViewSpec) -> View:
    """Finished images with the record of how they came about.

    Args:
        images: float32 [B, C, H, W], normalised.
        crops: in pixels of the images.
        sizes: int64 [B, 2], height and width of the images.
        colours: float32 [B, 6] as in `View.colours`, or None.
        spec: of the view.
    """
    boxes = (crops.boxes / np.concatenate([sizes, sizes], axis=1)).astype(np.float32)
    changed = None if colours is None else torch.from_numpy(colours)
    return View(images, torch.from_numpy(boxes), torch.from_numpy(crops.flips), changed, spec.name)


def unit(images: Tensor, device: torch.device) -> Tensor:
    """Images of workers, [B, C, H, W] uint8 or float32, as float32 in [0, 1] on the device."""
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
    """The targets of a batch whose images were cut in this process.

    Args:
        dataset: names the image in the error.
        targets: of the data set.
        indices: int64 [B].
        crops: of each view.
        sizes: int64 [B, 2], height and width of the images.
        views: one specification per view.

    Returns:
        On the CPU.

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
            raise DataError(f"{dataset.identifiers[index]}: {error}; repair or remove it") from None
    return collate_targets(targets.kind, seen)
