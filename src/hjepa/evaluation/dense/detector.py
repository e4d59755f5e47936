"""A Faster R-CNN on the patch features of an encoder, with a simple feature pyramid (ViTDet, arXiv:2203.16527)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hjepa.models import Encoder

_CHANNELS = 64
_HIDDEN = 256
# Smaller than usual: pooling of regions would take most of the time otherwise.
_RESOLUTION = 5
# Scales of the pyramid relative to the grid of the patches.
_SCALES = (2.0, 1.0, 0.5)
# Side of an anchor in cells of its map.
_ANCHOR = 5.0


class Backbone(nn.Module):
    """An encoder with a simple feature pyramid: its features at twice, once and half the resolution.

    Args:
        encoder: gives the features after all depths that have a level. Its parameters are trained if they have
            gradients.
        trained: whether gradients reach the encoder.
    """

    def __init__(self, encoder: Encoder, *, trained: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.trained = trained
        self.out_channels = _CHANNELS
        width = len(encoder.depths) * encoder.embed_dim
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, _CHANNELS, 1),
                nn.GroupNorm(8, _CHANNELS),
                nn.GELU(),
                nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1),
                nn.GroupNorm(8, _CHANNELS),
            )
            for _ in _SCALES
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps [B, 64, h, w] of normalised images [B, C, H, W], finest first."""
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            tokens = self.encoder.extract_features(images, depths=self.encoder.depths, pool="none")
        grid = self.encoder.geometry.grid
        features = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
        return OrderedDict(
            (str(place), layer(_resized(features, scale)))
            for place, (scale, layer) in enumerate(zip(_SCALES, self.pyramid, strict=True))
        )

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of the pyramid; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if not self.trained:
            self.encoder.eval()
        return self


def build_detector(encoder: Encoder, num_classes: int, *, trained: bool) -> nn.Module:
    """torchvision's Faster R-CNN (arXiv:1506.01497) for images at the size of the encoder's input.

    Args:
        encoder: see `Backbone`.
        num_classes: object classes, without the background.
        trained: whether the encoder is trained too.

    Returns:
        A module as torchvision describes it; labels are shifted by 1, since 0 is the background.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    backbone = Backbone(encoder, trained=trained)
    patch = min(encoder.geometry.patch)
    sizes = tuple((_ANCHOR * patch / scale,) for scale in _SCALES)
    height, width = encoder.geometry.height_width
    channels = encoder.channels
    options: dict[str, Any] = {
        # Images are normalised and of the right size already.
        "min_size": min(height, width),
        "max_size": max(height, width),
        "size_divisible": 1,
        "image_mean": [0.0] * channels,
        "image_std": [1.0] * channels,
    }
    return FasterRCNN(  # type: ignore[no-any-return]
        backbone,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_roi_pool=MultiScaleRoIAlign([str(n) for n in range(len(_SCALES))], _RESOLUTION, sampling_ratio=1),
        box_head=TwoMLPHead(_CHANNELS * _RESOLUTION**2, _HIDDEN),
        box_predictor=FastRCNNPredictor(_HIDDEN, num_classes + 1),
        **options,
    )


def _resized(features: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return features
    if scale > 1:
        return F.interpolate(features, scale_factor=scale, mode="bilinear", align_corners=False)
    return F.max_pool2d(features, round(1 / scale), ceil_mode=True)
