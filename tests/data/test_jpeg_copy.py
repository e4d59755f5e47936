"""The script that makes "CIFAR-10 (JPEG copy)": its output reads back as the JPEG of each image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tests.conftest import script

from hjepa.config import DataConfig
from hjepa.data import build_dataset


def test_copy_reads_back_as_the_jpeg_of_each_image(tmp_path: Path) -> None:
    original = {
        split: build_dataset(DataConfig(dataset="shapes", image_size=32, subset=24), split)
        for split in ("train", "test")
    }
    for split, dataset in original.items():
        script("cifar10_jpeg").write(dataset, tmp_path / f"{split}.parquet")
    for split, dataset in original.items():
        copy = build_dataset(DataConfig(dataset="parquet", data_path=str(tmp_path)), split)
        assert copy.labels is not None
        assert dataset.labels is not None
        assert torch.equal(copy.labels, dataset.labels)
        assert copy.class_names == dataset.class_names
        for index in range(0, len(dataset), 5):
            pixels = dataset.read(index)
            file = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
            expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
            assert torch.equal(copy.read(index), expected)
            assert not torch.equal(expected, pixels)


def test_jpeg_settings_are_those_of_the_measurements() -> None:
    picture = Image.open(io.BytesIO(script("cifar10_jpeg").jpeg(torch.zeros(3, 32, 32, dtype=torch.uint8))))
    # The first luminance steps of the standard's table at quality 75, and chroma at half the resolution.
    assert picture.quantization[0][:8] == [8, 6, 5, 8, 12, 20, 26, 31]
    assert [component[1:3] for component in picture.layer] == [(2, 2), (1, 1), (1, 1)]
