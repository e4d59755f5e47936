"""A tiny run and folders of images for the tests of embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.data.image_files import noise

from hjepa.config import load_config
from hjepa.training import run_training

TINY = {
    "model": {
        "encoder_type": "vit_tiny_patch4_16",
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_hierarchies": 2,
        "predictor": {"depth": 1, "embed_dim": 16, "num_heads": 2},
    },
    "data": {"dataset": "shapes", "image_size": 16, "batch_size": 16, "subset": 64},
    "training": {"epochs": 1, "warmup_epochs": 0, "lr": 1e-3, "max_steps": 2},
    "logging": {"tensorboard": {"enabled": False}},
    "evaluation": {"train_images": 80, "test_images": 60, "online_images": 40},
    "seed": 3,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run with two levels, trained for two steps."""
    folder = tmp_path_factory.mktemp("embeddings") / "run"
    run_training(load_config(TINY), output_dir=folder, console=False)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with 24 images of two classes."""
    root = tmp_path / "photos"
    for number in range(24):
        folder = root / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, 20, 18)).save(folder / f"{number:03d}.png")
    return root


def save(array: object, file: Path, **options: object) -> Path:
    """Save an array as an image file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)  # type: ignore[arg-type]
    return file
