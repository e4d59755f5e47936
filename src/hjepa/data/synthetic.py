"""A data set of random noise, to measure speed without reading files."""

from __future__ import annotations

import torch

from hjepa.data.dataset import ImageDataset, MemoryPixels


def random_dataset(count: int, channels: int, image_size: tuple[int, int], *, seed: int = 0) -> ImageDataset:
    """Unlabelled images of uniform noise in memory.

    Args:
        count: number of images, at least 1.
        channels: channels of every image.
        image_size: (h, w) in pixels.
        seed: seed of the noise.

    Returns:
        A training split of uint8 images.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, *image_size), dtype=torch.uint8, generator=generator)
    return ImageDataset(
        MemoryPixels(images),
        name="noise",
        split="train",
        channels=channels,
        identifiers=[f"noise/{index}" for index in range(count)],
        description=f"noise, {image_size[0]}x{image_size[1]}",
    )
