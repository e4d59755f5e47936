"""Controls for a trained encoder: raw pixels, their principal components, and an untrained encoder.

The untrained encoder is `hjepa.runs.load.untrained_encoder`: the step-0 weights of the same run.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics import PCA

LARGEST_SIDE = 32
"""Raw pixels are shrunk to at most this side: 224 px in colour would be 150,528 dimensions."""
PCA_COMPONENTS = 128


def pixel_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which raw pixels are used: those of the model, shrunk to at most 32 a side."""
    scale = min(1.0, LARGEST_SIDE / max(image_size))
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def pixels(images: Tensor) -> Tensor:
    """Flat pixels [B, C * h * w] of normalised images [B, C, H, W], shrunk with antialiasing.

    Runs on the CPU, since not every device supports antialiasing.
    """
    images = images.cpu()
    size = pixel_size((images.shape[2], images.shape[3]))
    if size != tuple(images.shape[2:]):
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    return images.flatten(1)


def pixel_components(train: Tensor, read: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The leading principal components of the pixels, at most 128, fitted on the training images.

    Args:
        train: pixels [N, D].
        read: pixels [M, D] by split.

    Returns:
        [N, K], and [M, K] by split.
    """
    pca = PCA.fit(train, min(PCA_COMPONENTS, *train.shape))
    return pca.transform(train), {split: pca.transform(pixels) for split, pixels in read.items()}
