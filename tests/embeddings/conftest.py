"""A tiny run and folders of images for the tests of embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.data.image_files import noise
from tests.evaluation.conftest import TINY

from hjepa.config import load_config
from hjepa.training import run_training

# The run of the evaluation tests with fewer images and steps.
SHORTER = {"data.subset": 64, "training.max_steps": 2}


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run with two levels, trained for two steps."""
    folder = tmp_path_factory.mktemp("embeddings") / "run"
    run_training(load_config(TINY, SHORTER), output_dir=folder, console=False)
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
