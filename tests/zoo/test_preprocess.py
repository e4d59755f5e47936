"""A packed encoder preprocesses images of any size as the evaluation does."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import tiny_config

from hjepa.config import Config
from hjepa.data import EvalLoader
from hjepa.data.dataset import Blobs, EncodedPixels, ImageDataset, MemoryPixels, Pixels
from hjepa.data.images.preprocess import Preprocess
from hjepa.errors import CheckpointError
from hjepa.models import build_model
from hjepa.zoo import PretrainedEncoder, load_pretrained, shipped_models
from hjepa.zoo.files import read_packed, shipped_folder

SIZES = [(300, 400), (31, 17), (500, 33), (33, 500), (16, 16), (20, 20), (8, 8), (7, 64), (1, 1)]
MEAN, STD = (0.48, 0.41, 0.36), (0.21, 0.24, 0.27)


def encoder(channels: int, image_size: Any = 16) -> PretrainedEncoder:
    config: Config = tiny_config({"data.image_size": image_size})
    return PretrainedEncoder(build_model(config, channels).eval(), MEAN[:channels], STD[:channels], {})


def pictures(channels: int, size: tuple[int, int], dtype: torch.dtype, count: int = 3) -> torch.Tensor:
    top = {torch.uint8: 256, torch.uint16: 65536, torch.float32: 1}[dtype]
    values = torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(sum(size)))
    return values if dtype == torch.float32 else (values * top).to(torch.int32).clamp(0, top - 1).to(dtype)


def evaluated(pixels: Pixels, channels: int, image_size: tuple[int, int]) -> torch.Tensor:
    data = ImageDataset(pixels, name="x", split="test", channels=channels, identifiers=[str(i) for i in range(3)])
    loader = EvalLoader(
        data, None, image_size, mean=MEAN[:channels], std=STD[:channels], batch_size=3, device=torch.device("cpu")
    )
    return next(iter(loader)).images


class PngBlobs(Blobs):
    """Write images as PNG files."""

    def __init__(self, images: torch.Tensor) -> None:
        self.files = []
        for image in images:
            buffer = io.BytesIO()
            array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
            Image.fromarray(array).save(buffer, "PNG")
            self.files.append(buffer.getvalue())

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> bytes:
        return self.files[index]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("image_size", [(16, 16), (16, 24)])
def test_packed_encoders_preprocess_as_the_evaluation_does(
    size: tuple[int, int], channels: int, dtype: torch.dtype, image_size: tuple[int, int]
) -> None:
    images = pictures(channels, size, dtype)
    mine = encoder(channels, image_size).preprocess(images)
    assert mine.shape == (3, channels, *image_size)
    assert torch.equal(mine, evaluated(MemoryPixels(images), channels, image_size))


@pytest.mark.parametrize("size", [(300, 400), (31, 17), (500, 33), (16, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_read_from_files_differ_by_a_grey_level_at_most(size: tuple[int, int], channels: int) -> None:
    images = pictures(channels, size, torch.uint8)
    mine = encoder(channels).preprocess(images)
    files = evaluated(EncodedPixels(PngBlobs(images), channels), channels, (16, 16))
    grey_levels = (mine - files).abs() * torch.tensor(STD[:channels]).view(-1, 1, 1) * 255
    assert float(grey_levels.max()) <= 1.01


@pytest.mark.parametrize(("size", "image_size"), [((300, 400), (16, 16)), ((31, 17), (24, 16)), ((9, 12), (16, 16))])
def test_the_stored_preprocessing_is_sufficient_to_reproduce_it(
    size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    """Preprocessing from the stored values with only Pillow and NumPy."""
    preprocess = Preprocess(image_size, MEAN, STD)
    plain = json.loads(json.dumps(preprocess.as_dict()))
    (picture,) = pictures(3, size, torch.uint8, count=1)
    (height, width), (rows, columns) = size, plain["image_size"]
    box_height = min(height, max(1, round(width * rows / columns)))
    box_width = min(width, max(1, round(height * columns / rows)))
    top, left = (height - box_height) // 2, (width - box_width) // 2
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    # Crop before resizing: with `resize(box=...)` the filter would use pixels outside the box.
    cut = image.crop((left, top, left + box_width, top + box_height))
    small = cut.resize((columns, rows), Image.Resampling.BILINEAR)
    values = np.asarray(small, dtype=np.float64) / plain["largest_value"]["uint8"]
    by_hand = ((values - plain["mean"]) / plain["std"]).transpose(2, 0, 1)
    ours = preprocess(picture[None])[0].numpy()
    assert np.abs(by_hand - ours).max() <= 1.01 / 255 / min(STD)


def test_preprocessing_values_survive_a_json_round_trip() -> None:
    preprocess = Preprocess((16, 24), MEAN, STD)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.as_dict()))) == preprocess


def test_images_are_not_modified_and_gradients_flow() -> None:
    view = Preprocess((16, 16), MEAN, STD)
    with torch.inference_mode():
        view(pictures(3, (16, 16), torch.uint8))
    for size in ((16, 16), (21, 40)):
        images = pictures(3, size, torch.float32)
        before = images.clone()
        images.requires_grad_(True)
        view(images).sum().backward()
        assert torch.equal(images.detach(), before)
        assert images.grad is not None
        assert images.grad.abs().sum() > 0


def test_other_types_and_channels_are_refused() -> None:
    view = Preprocess((16, 16), MEAN, STD)
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        view(torch.zeros(1, 3, 16, 16, dtype=torch.int64))
    with pytest.raises(ValueError, match="of 3 channels"):
        view(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match=r"at least one pixel, got shape \(2, 3, 0, 16\)"):
        view(torch.zeros(2, 3, 0, 16))
    with pytest.raises(ValueError, match="one per channel"):
        Preprocess((16, 16), MEAN, STD[:1])


def test_float_images_that_are_not_scaled_to_one_are_refused() -> None:
    model = encoder(3)
    images = pictures(3, (20, 24), torch.float32)
    broken = images.clone()
    broken[1, 2, 3, 4] = torch.nan
    for wrong, message in ((images * 255, r"from 0 to 1, got values from .* divide"), (broken, "got NaN")):
        with pytest.raises(ValueError, match=message):
            model.embed(wrong)
    assert model.embed(images * 1.1).isfinite().all(), "a slight overshoot, as of bicubic resizing"


def test_an_empty_batch_cannot_be_embedded() -> None:
    with pytest.raises(ValueError, match=r"at least one image, got shape \(0, 3, 16, 16\)"):
        encoder(3).embed(torch.zeros(0, 3, 16, 16))


@pytest.mark.parametrize("size", [(300, 400), (31, 17), (33, 500)])
def test_images_that_need_resizing_have_nearly_the_same_features_when_read_from_files(size: tuple[int, int]) -> None:
    model, images = encoder(3), pictures(3, size, torch.uint8)
    mine = model.embed(images)
    files = model.extract_features(evaluated(EncodedPixels(PngBlobs(images), 3), 3, (16, 16))).detach()
    assert float((mine - files).norm() / mine.norm()) < 0.02


def test_images_that_need_no_resizing_are_the_same_when_read_from_files() -> None:
    for size in ((16, 16), (16, 24)):  # the second is cropped only
        images = pictures(3, size, torch.uint8)
        files = evaluated(EncodedPixels(PngBlobs(images), 3), 3, (16, 16))
        assert torch.equal(encoder(3).preprocess(images), files)


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_states_its_preprocessing(name: str) -> None:
    about = json.loads((shipped_folder() / name / "model.json").read_text())
    assert Preprocess.from_dict(about["preprocess"]) == load_pretrained(name).view


def test_unknown_preprocessing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    about = json.loads((shipped_folder() / shipped_models()[0] / "model.json").read_text())
    about["preprocess"]["crop"] = "five crops"
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="five crops"):
        read_packed(folder, "cpu")
