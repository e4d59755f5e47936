"""Cut and resize: antialiased bilinear resampling of crops, in batches as two matrix products per image.

Resampling along one axis is linear, so a crop is ``A_y @ image @ A_x``. A row of ``A`` is a triangle around the centre
of its output pixel; shrinking widens the triangle by the factor, which is the antialiasing of Pillow and torchvision.
Both functions below give what ``torchvision.transforms.v2.functional.resized_crop(..., antialias=True)`` gives for
float images.
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
    """Weights of one axis for a batch of crops.

    Args:
        length: int64 [B], pixels of the crop along the axis.
        start: int64 [B], its first pixel.
        flips: bool [B], whether the output runs backwards; never when None.
        inputs: pixels of the image along the axis.
        outputs: pixels of the result along the axis.

    Returns:
        float32 [B, outputs, inputs]; every row sums to one and is zero outside the crop.
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
        images: [B, C, h, w] uint8, uint16 or float32.
        boxes: int64 [B, 4], top, left, height, width.
        flips: bool [B].
        out_size: (H, W).

    Returns:
        float32 [B, C, H, W] in [0, 1].
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


def crop_one(image: Tensor, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """Cut, resize and mirror one image, [C, h, w], at a cost that follows the size of the crop.

    Returns:
        float32 [C, H, W] in [0, 1].
    """
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width].to(torch.float32) * unit_scale(image.dtype)
    if (height, width) != out_size:
        crop = F.interpolate(crop[None], size=out_size, mode="bilinear", antialias=True)[0]
    return crop.flip(2) if flip else crop


def crop_one_8_bit(image: Tensor, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """`crop_one` for 8-bit images and in 8-bit arithmetic: several times faster, and within one grey level of it.

    Args:
        image: uint8 [C, h, w]; fastest where the channels of a pixel lie side by side in memory.

    Returns:
        uint8 [C, H, W].
    """
    if out_size[1] == 1:
        # PyTorch's 8-bit kernel gets images of a single column wrong.
        return (crop_one(image, box, flip, out_size) * 255).round_().to(torch.uint8).contiguous()
    top, left, height, width = box
    crop = image[:, top : top + height, left : left + width]
    if (height, width) != out_size:
        crop = F.interpolate(crop[None], size=out_size, mode="bilinear", antialias=True)[0]
    return (crop.flip(2) if flip else crop).contiguous()


def largest_reduction(box: Box, out_size: tuple[int, int]) -> int:
    """How many times smaller an image may be decoded so that a crop still has no fewer pixels than the output: 1, 2, 4
    or 8."""
    spare = min(box[2] // out_size[0], box[3] // out_size[1])
    return max(factor for factor in (1, 2, 4, 8) if factor <= max(1, spare))


def crop_reduced(image: Tensor, reduction: int, box: Box, flip: bool, out_size: tuple[int, int]) -> Tensor:
    """The same crop from an image that was decoded smaller, where its edges fall between pixels.

    Args:
        image: uint8 [1 or 3, h, w].
        reduction: how many times smaller the image is than what the box refers to.
        box: of the crop, in pixels of the whole image.

    Returns:
        uint8 [C, H, W].
    """
    from PIL import Image

    top, left, height, width = (side / reduction for side in box)
    picture = Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
    # The last pixel of an image whose size is no multiple of the factor lies partly outside.
    edges = (left, top, min(left + width, picture.width), min(top + height, picture.height))
    cut = np.array(picture.resize((out_size[1], out_size[0]), Image.Resampling.BILINEAR, box=edges))
    pixels = torch.from_numpy(cut[None] if cut.ndim == 2 else cut.transpose(2, 0, 1))
    return (pixels.flip(2) if flip else pixels).contiguous()
