"""Crop and resize by antialiased bilinear resampling; for a batch, as two matrix products per image.

Resampling along one axis is linear, so a crop is ``A_y @ image @ A_x``. A row of ``A`` is a triangle filter around the
centre of its output pixel, widened by the factor of reduction, which is the antialiasing of Pillow and torchvision.
`crop_batch` and `crop_one` equal ``torchvision.transforms.v2.functional.resized_crop(..., antialias=True)`` for float
images.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.data.images.decode import unit_scale

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


def resampling_matrix(length: Tensor, start: Tensor, flips: Tensor | None, inputs: int, outputs: int) -> Tensor:
    """Resampling weights along one axis for a batch of crops.

    Args:
        length: int64 [B], pixels of the crop along the axis.
        start: int64 [B], first pixel of the crop.
        flips: bool [B], whether the output is reversed; None if no output is.
        inputs: pixels of the image along the axis.
        outputs: pixels of the result along the axis.

    Returns:
        float32 [B, outputs, inputs]; every row sums to 1 and is zero outside the crop.
    """
    device = length.device
    extent = length.to(torch.float32)[:, None]
    scale = extent / outputs
    target = torch.arange(outputs, device=device)[None, :].expand(len(length), outputs)
    if flips is not None:
        target = torch.where(flips[:, None], outputs - 1 - target, target)
    centre = (target + 0.5) * scale
    # Relative to the crop, so that the numbers are small enough to be exact in float32.
    pixel = (torch.arange(inputs, device=device)[None, :] - start[:, None]).to(torch.float32)
    support = scale.clamp(min=1)[:, :, None]
    weights = (1 - (pixel[:, None, :] + 0.5 - centre[:, :, None]).abs() / support).clamp_(min=0)
    weights *= ((pixel >= 0) & (pixel < extent))[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def crop_batch(images: Tensor, boxes: Tensor, flips: Tensor, out_size: tuple[int, int]) -> Tensor:
    """Crop, resize and flip images of one size.

    Args:
        images: [B, C, h, w] uint8, uint16 or float32.
        boxes: int64 [B, 4], top, left, height, width.
        flips: bool [B].
        out_size: (H, W).

    Returns:
        float32 [B, C, H, W] in [0, 1].
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.unbind(1)
    # Under autocast the products would run in half precision.
    with torch.autocast(images.device.type, enabled=False):
        across = resampling_matrix(box_width, left, flips, width, out_size[1])
        down = resampling_matrix(box_height, top, None, height, out_size[0]) * unit_scale(images.dtype)
        rows = images.to(torch.float32).reshape(batch, channels * height, width)
        rows = torch.bmm(rows, across.transpose(1, 2)).view(batch, channels, height, out_size[1])
        return torch.matmul(down[:, None], rows)


def crop_one(image: Tensor, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """Crop, resize and flip one image, [C, h, w]; the cost depends on the size of the crop, not of the image.

    Returns:
        float32 [C, H, W] in [0, 1].
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width].to(torch.float32) * unit_scale(image.dtype)
    if (height, width) != out_size:
        crop = F.interpolate(crop[None], size=out_size, mode="bilinear", antialias=True)[0]
    return crop.flip(2) if flip else crop


def crop_one_8_bit(image: Tensor, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """`crop_one` in 8-bit arithmetic: several times faster, and within one grey level.

    Args:
        image: uint8 [C, h, w]; fastest if the channels of a pixel are adjacent in memory (channels last).

    Returns:
        uint8 [C, H, W].
    """
    if out_size[1] == 1:
        # PyTorch's 8-bit kernel is wrong for outputs of a single column.
        return (crop_one(image, box, flip, out_size) * 255).round_().to(torch.uint8).contiguous()
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if (height, width) != out_size:
        crop = F.interpolate(crop[None], size=out_size, mode="bilinear", antialias=True)[0]
    return (crop.flip(2) if flip else crop).contiguous()


def largest_reduction(box: Box, out_size: tuple[int, int]) -> int:
    """Largest factor (1, 2, 4 or 8) by which an image may be reduced without leaving the crop fewer pixels than the
    output."""
    spare = min(box[2] // out_size[0], box[3] // out_size[1])
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(1, spare))


def crop_reduced(image: Tensor, reduction: int, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """Crop, resize and flip an image that was decoded smaller, so that the edges of the box may fall between pixels.

    Args:
        image: uint8 [1 or 3, h, w].
        reduction: factor by which the image is smaller than the original.
        box: the crop, in pixels of the original.
        flip: whether to flip the result left to right.
        out_size: (H, W).

    Returns:
        uint8 [C, H, W].
    """
    from PIL import Image

    top, left, height, width = (side / reduction for side in box)
    picture = Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
    # If the size is not a multiple of the factor, the last pixel lies partly outside the original.
    edges = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    cut = np.array(picture.resize((out_size[1], out_size[0]), Image.Resampling.BILINEAR, box=edges))
    pixels = torch.from_numpy(cut[None] if cut.ndim == 2 else cut.transpose(2, 0, 1))
    return (pixels.flip(2) if flip else pixels).contiguous()
