"""Generated images for the tests of `hjepa.data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.image_files import encode, noise

from hjepa.data import ImageDataset
from hjepa.data.dataset import MemoryPixels


@pytest.fixture
def memory_dataset() -> Callable[..., ImageDataset]:
    """Makes a data set of random images in memory."""

    def make(
        count: int = 40, channels: int = 3, size: tuple[int, int] = (20, 24), dtype: str = "uint8"
    ) -> ImageDataset:
        generator = torch.Generator().manual_seed(count)
        values = torch.rand(count, channels, *size, generator=generator)
        # Smoothed, as pictures are: independent pixels would make every interpolation look wrong.
        values = torch.nn.functional.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)
        images = {
            "uint8": (values * 255).round().to(torch.uint8),
            "uint16": (values * 65535).round().to(torch.int32).to(torch.uint16),
            "float32": values,
        }[dtype]
        return ImageDataset(
            MemoryPixels(images),
            name="test",
            split="train",
            channels=channels,
            identifiers=[f"test/{index}" for index in range(count)],
            labels=torch.arange(count) % 4,
            class_names=("a", "b", "c", "d"),
        )

    return make


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """Three classes with 10, 8 and 6 readable pictures of two sizes."""
    root = tmp_path / "pictures"
    for label, (name, count) in enumerate((("ant", 10), ("bee", 8), ("cat", 6))):
        (root / name).mkdir(parents=True)
        for index in range(count):
            array = noise(100 * label + index, height=12 + 4 * (index % 2))
            (root / name / f"{index}.png").write_bytes(encode(array))
    return root


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """Good pictures of every kind, one truncated JPEG, and one text file named .jpg."""
    root = tmp_path / "mixed"
    root.mkdir()
    deep = np.linspace(0, 65535, 16 * 20).astype(np.uint16).reshape(16, 20)
    (root / "grey.png").write_bytes(encode(noise(1, channels=1)))
    (root / "palette.gif").write_bytes(encode(noise(2), "GIF"))
    (root / "palette.png").write_bytes(encode(noise(2), mode="P"))
    (root / "rgba.png").write_bytes(encode(noise(3, 30, 20), mode="RGBA"))
    (root / "deep.png").write_bytes(encode(deep))
    (root / "deep.tif").write_bytes(encode(deep, "TIFF"))
    (root / "cmyk.jpg").write_bytes(encode(noise(4), "JPEG", mode="CMYK"))
    (root / "photo.JPEG").write_bytes(encode(noise(5, 60, 40), "JPEG"))
    (root / "web.webp").write_bytes(encode(noise(6), "WEBP"))
    (root / "plain.bmp").write_bytes(encode(noise(7), "BMP"))
    whole = encode(noise(8, 64, 64), "JPEG")
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "notes.jpg").write_text("this is not a picture", encoding="utf-8")
    (root / "readme.txt").write_text("left alone", encoding="utf-8")
    (root / ".hidden.png").write_bytes(encode(noise(9)))
    return root
