"""Contact sheet: images beside the augmented crops that a model would see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.data.loading.eval_loader import EvalLoader
from hjepa.data.loading.loader import TrainLoader

if TYPE_CHECKING:
    from hjepa.config import DataConfig
    from hjepa.data.dataset import ImageDataset

_GAP = 4
_LEAST_SIDE = 64


def contact_sheet(
    dataset: ImageDataset, data: DataConfig, image_size: tuple[int, int], *, seed: int, rows: int = 8, crops: int = 6
) -> Tensor:
    """Draw one row per image: the centred crop, then augmented crops made by the training loader.

    Args:
        dataset: the training split.
        data: the ``data`` section.
        image_size: (H, W) of the crops, in pixels.
        seed: seed of the run.
        rows: number of images, spread evenly over the split.
        crops: number of augmented crops per image.

    Returns:
        uint8 [H', W', 3]. One channel is shown as grey; of more than three channels only the first three are shown.
    """
    chosen = torch.linspace(0, len(dataset) - 1, steps=min(rows, len(dataset))).long()
    shown = dataset.select(chosen)
    zero, one = [0.0] * dataset.channels, [1.0] * dataset.channels
    cpu = torch.device("cpu")
    views = EvalLoader(shown, None, image_size, mean=zero, std=one, batch_size=len(shown), device=cpu)
    columns = [next(iter(views)).images]
    settings = data.model_copy(update={"batch_size": len(shown), "num_workers": 0})
    loader = TrainLoader(shown, settings, image_size, mean=zero, std=one, seed=seed, device=cpu)
    for batch in loader.batches(0, crops):
        columns.append(batch.images[batch.indices.argsort()])
    grid = torch.stack(columns, dim=1)  # rows, columns, channels, height, width
    count, width = grid.shape[:2]
    pictures = _three_channels(grid.flatten(0, 1))
    factor = max(1, -(-_LEAST_SIDE // min(image_size)))
    pictures = F.pad(F.interpolate(pictures, scale_factor=factor, mode="nearest"), [_GAP, 0, _GAP, 0], value=1.0)
    height_, width_ = pictures.shape[2:]
    sheet = pictures.view(count, width, 3, height_, width_).permute(0, 3, 1, 4, 2)
    return (sheet.reshape(count * height_, width * width_, 3).clamp(0, 1) * 255).round().to(torch.uint8)


def save_png(sheet: Tensor, path: Path) -> None:
    """Write uint8 [H, W, 3] as a PNG file. Raises `OSError` if it cannot be written."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(sheet.numpy())).save(path, format="PNG")


def _three_channels(images: Tensor) -> Tensor:
    channels = images.shape[1]
    if channels == 2:
        return F.pad(images, [0, 0, 0, 0, 0, 1])
    return images.expand(-1, 3, -1, -1) if channels == 1 else images[:, :3]
