"""Apply the crop of a view to targets: maps by nearest sampling, boxes by clipping, shifting and scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.images.resample import Box
from hjepa.data.targets import Boxes, TargetValue

if TYPE_CHECKING:
    from hjepa.data.views import ViewSpec

LEAST_VISIBLE = 0.1
"""Share of an object's box that must be inside a crop; otherwise the object is dropped from that view."""


def seen_in_views(
    target: TargetValue,
    boxes: Sequence[Box],
    flips: Sequence[bool],
    size: tuple[int, int],
    views: Sequence[ViewSpec],
) -> list[TargetValue]:
    """The target of one image in each view; a class or a text is the same in all views.

    Args:
        target: target of the whole image.
        boxes: crop box of each view, in pixels of the image.
        flips: whether each view is flipped left to right.
        size: height and width of the image.
        views: one specification per view.

    Raises:
        UnreadableImageError: the map and the image differ in size.
    """
    cuts = list(zip(boxes, flips, (spec.plane for spec in views), strict=True))
    if isinstance(target, Boxes):
        return [crop_objects(target, box, flip, out_size) for box, flip, out_size in cuts]
    if isinstance(target, Tensor):
        if tuple(target.shape) != tuple(size):
            shape = "x".join(str(side) for side in target.shape)
            raise UnreadableImageError(f"target map is {shape}, but the image is {size[0]}x{size[1]}")
        return [crop_map(target, box, flip, out_size) for box, flip, out_size in cuts]
    return [target] * len(cuts)


def crop_map(values: Tensor, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """Crop, resize and flip a map of integers by nearest sampling.

    Args:
        values: integers [h, w].
        box: top, left, height, width in pixels.
        flip: whether to flip the result left to right.
        out_size: (H, W).

    Returns:
        [H, W], of the same type (int32 for uint16, which PyTorch cannot index).
    """
    if values.dtype == torch.uint16:
        values = values.to(torch.int32)
    top, left, height, width = box
    columns = _nearest(left, width, out_size[1])
    rows = values.index_select(0, _nearest(top, height, out_size[0]))
    return rows.index_select(1, columns.flip(0) if flip else columns)


def crop_objects(objects: Boxes, box: Box, flip: bool, out_size: tuple[int, int]) -> Boxes:
    """Clip objects to a crop and convert them to pixels of the resized crop.

    Objects with less than `LEAST_VISIBLE` of their area inside, or without area, are dropped.

    Args:
        objects: in pixels of the image.
        box: the crop: top, left, height, width in pixels.
        flip: whether the crop is flipped left to right.
        out_size: (H, W).
    """
    origin, extent = torch.tensor(box[:2]), torch.tensor(box[2:])
    start, side = objects.boxes[:, :2], objects.boxes[:, 2:]
    low = (start - origin).clamp(min=0)
    high = torch.minimum(start - origin + side, extent)
    visible = (high - low).clamp(min=0)
    area = visible.prod(dim=1)
    kept = (area > 0) & (area >= LEAST_VISIBLE * side.prod(dim=1))
    if flip:
        # Flipped before scaling, so that boxes clipped at the border stay exactly on it.
        low[:, 1] = extent[1] - high[:, 1]
    scale = torch.tensor(out_size) / extent
    low, visible = low[kept] * scale, visible[kept] * scale
    return Boxes(torch.cat([low, visible], dim=1), objects.labels[kept])


def _nearest(start: int, length: int, outputs: int) -> Tensor:
    """int64 [outputs]: the pixels under the centres of the outputs."""
    return start + (2 * torch.arange(outputs) + 1) * length // (2 * outputs)
