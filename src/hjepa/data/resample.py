"""Cut and resize: antialiased bilinear resampling of crops, in batches as two matrix products per image.

Resampling along one axis is linear, so a crop is ``A_y @ image @ A_x``. A row of ``A`` is a triangle around the centre
of its output pixel; shrinking widens the triangle by the factor, which is the antialiasing of Pillow and torchvision.
Both functions below give what ``torchvision.transforms.v2.functional.resized_crop(..., antialias=True)`` gives for
float images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.data.decode import unit_scale


def resampling_matrix(length: Tensor, start: Tensor, flips: Tensor | None, inputs: int, outputs: int) -> Tensor:
    """Weights of one axis for a batch of crops.

    Args:
        length: int64 ``[B]``, pixels of the crop along the axis.
        start: int64 ``[B]``, its first pixel.
        flips: bool ``[B]``, whether the output runs backwards; never when None.
        inputs: pixels of the image along the axis.
        outputs: pixels of the result along the axis.

    Returns:
        float32 ``[B, outputs, inputs]``; every row sums to one and is zero outside the crop.
    """
    device = length.device
    extent = length.to(torch.float32)[:, None]
    scale = extent / outputs
    target = torch.arange(outputs, device=device)[None, :].expand(len(length), outputs)
    if flips is not None:
        target = torch.where(flips[:, None], outputs - 1 - target, target)
    centre = (target + 0.5) * scale
    # Relative to the crop, where the numbers are small and float32 exact.
    pixel = (torch.arange(inputs, device=device)[None, :] - start[:, None]).to(torch.float32)
    support = scale.clamp(min=1)[:, :, None]
    weights = (1 - (pixel[:, None, :] + 0.5 - centre[:, :, None]).abs() / support).clamp_(min=0)
    weights *= ((pixel >= 0) & (pixel < extent))[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def crop_batch(images: Tensor, boxes: Tensor, flips: Tensor, out_size: tuple[int, int]) -> Tensor:
    """Cut, resize and mirror images of one size.

    Args:
        images: ``[B, C, h, w]`` uint8, uint16 or float32.
        boxes: int64 ``[B, 4]``, top, left, height, width.
        flips: bool ``[B]``.
        out_size: (H, W).

    Returns:
        float32 ``[B, C, H, W]`` in [0, 1].
    """
    batch, channels, height, width = images.shape
    top, left, box_height, box_width = boxes.unbind(1)
    # A surrounding autocast would resample in half precision.
    with torch.autocast(images.device.type, enabled=False):
        across = resampling_matrix(box_width, left, flips, width, out_size[1])
        down = resampling_matrix(box_height, top, None, height, out_size[0]) * unit_scale(images.dtype)
        rows = images.to(torch.float32).reshape(batch, channels * height, width)
        rows = torch.bmm(rows, across.transpose(1, 2)).view(batch, channels, height, out_size[1])
        return torch.matmul(down[:, None], rows)


def crop_one(image: Tensor, box: tuple[int, int, int, int], flip: bool, out_size: tuple[int, int]) -> Tensor:
    """Cut, resize and mirror one image, ``[C, h, w]``, at a cost that follows the size of the crop.

    Returns:
        float32 ``[C, H, W]`` in [0, 1].
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width].to(torch.float32) * unit_scale(image.dtype)
    if (height, width) != out_size:
        crop = F.interpolate(crop[None], size=out_size, mode="bilinear", antialias=True)[0]
    return crop.flip(2) if flip else crop
