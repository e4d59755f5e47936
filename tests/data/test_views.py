"""Views: several per image, each with its own random numbers and a record of its augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.image_files import encode, noise
from torchvision.transforms.v2 import functional as tv

from hjepa.config import DataConfig
from hjepa.data import Batch, EvalLoader, ImageDataset, TrainLoader, ViewSpec, build_dataset, default_views
from hjepa.data.dataset import EncodedPixels, MemoryPixels
from hjepa.data.images.photometric import gaussian_blur, recolour

CPU = torch.device("cpu")
Make = Callable[..., ImageDataset]

GLOBAL = ViewSpec("global", (16, 16), count=2, random_crop=True, flip=0.5, color_jitter=0.4)
LOCAL = ViewSpec(
    "local", (8, 12), count=3, random_crop=True, scale=(0.1, 0.4), flip=0.5, grayscale=0.5, blur=0.5, solarize=0.5
)
PLAIN = ViewSpec("plain", (16, 16))


def loader(
    images: ImageDataset, views: tuple[ViewSpec, ...] | None, *, rank: int = 0, world: int = 1, **keys: Any
) -> TrainLoader:
    data = DataConfig(**({"batch_size": 8, "augmentation": {"color_jitter": 0.3}} | keys))
    statistics = {"mean": [0.0] * images.channels, "std": [1.0] * images.channels}
    return TrainLoader(
        images, data, (16, 16), **statistics, seed=7, rank=rank, world_size=world, device=CPU, views=views
    )


@pytest.fixture(params=["device", "one by one", "workers"])
def path(
    request: pytest.FixtureRequest, memory_dataset: Make, class_folder: Path
) -> tuple[ImageDataset, dict[str, Any]]:
    """A data set on each of the three ways to a batch, with the keys that choose it."""
    dataset = memory_dataset(24)
    if request.param == "device":
        return dataset, {}
    if request.param == "one by one":
        one_by_one = MemoryPixels(list(dataset.images))
        listed = ImageDataset(one_by_one, name="l", split="train", channels=3, identifiers=dataset.identifiers)
        return listed, {"storage": "device"}
    keys = {"dataset": "folder", "data_path": class_folder, "storage": "workers"}
    return build_dataset(DataConfig(**keys)), keys


def test_the_first_view_does_not_depend_on_the_others(path: tuple[ImageDataset, dict[str, Any]]) -> None:
    dataset, keys = path
    alone = list(loader(dataset, None, **keys).batches(2, 5))
    first = default_views(DataConfig(augmentation={"color_jitter": 0.3}), (16, 16))
    among = list(loader(dataset, (*first, LOCAL), **keys).batches(2, 5))
    for one, several in zip(alone, among, strict=True):
        assert torch.equal(one.indices, several.indices)
        assert torch.equal(one.images, several.images)
        assert torch.equal(one.views[0].boxes, several.views[0].boxes)
        assert [view.spec for view in several.views] == ["image", "local", "local", "local"]


def test_views_have_their_sizes_and_differ(path: tuple[ImageDataset, dict[str, Any]]) -> None:
    dataset, keys = path
    batch = next(loader(dataset, (GLOBAL, LOCAL), **keys).batches(0, 1))
    assert [tuple(view.images.shape) for view in batch.views] == [(8, 3, 16, 16)] * 2 + [(8, 3, 8, 12)] * 3
    boxes = torch.stack([view.boxes for view in batch.views])
    for one in range(5):
        for other in range(one):
            assert (boxes[one] != boxes[other]).any(dim=1).float().mean() > 0.7
    shares = boxes[:, :, 2] * boxes[:, :, 3]
    assert shares[:2].min() > 0.3
    assert shares[2:].max() < 0.5


def test_views_do_not_depend_on_processes_or_workers(path: tuple[ImageDataset, dict[str, Any]]) -> None:
    dataset, keys = path
    workers = {"num_workers": 2} if keys.get("storage") == "workers" else {}
    one = list(loader(dataset, (GLOBAL, LOCAL), **keys).batches(0, 2))
    halves = [
        list(loader(dataset, (GLOBAL, LOCAL), rank=rank, world=2, **keys, **workers, batch_size=4).batches(0, 2))
        for rank in range(2)
    ]
    for step, whole in enumerate(one):
        for number, view in enumerate(whole.views):
            parts = [halves[rank][step].views[number] for rank in range(2)]
            assert torch.allclose(torch.cat([part.images for part in parts]), view.images, rtol=0, atol=1e-5)
            assert torch.equal(torch.cat([part.boxes for part in parts]), view.boxes)
            assert torch.equal(torch.cat([part.flipped for part in parts]), view.flipped)
            assert view.colours is not None
            assert torch.equal(torch.cat([part.colours for part in parts]), view.colours)


def test_a_view_records_how_it_was_made(path: tuple[ImageDataset, dict[str, Any]]) -> None:
    dataset, keys = path
    spec = ViewSpec("cut", (9, 7), count=2, random_crop=True, flip=0.5)
    for batch in loader(dataset, (spec, PLAIN), **keys).batches(0, 2):
        assert batch.views[2].colours is None
        assert not batch.views[2].flipped.any()
        for view in batch.views[:2]:
            assert view.colours is None
            assert 0 < view.flipped.sum() < len(batch)
            for row, index in enumerate(batch.indices.tolist()):
                picture = dataset.read(index).float() / 255
                height, width = picture.shape[1:]
                box = view.boxes[row] * torch.tensor([height, width, height, width])
                assert torch.allclose(box, box.round(), atol=1e-4)
                cut = tv.resized_crop(picture, *box.round().int().tolist(), size=[9, 7], antialias=True)
                cut = cut.flip(2) if view.flipped[row] else cut
                assert (cut - view.images[row]).abs().max() < 1.01 / 255


def test_colours_are_changed_as_recorded_in_the_view(memory_dataset: Make) -> None:
    dataset = memory_dataset(24)
    coloured = ViewSpec("all", (16, 16), color_jitter=0.4, grayscale=0.5, blur=0.5, solarize=0.5)
    batch = next(loader(dataset, (PLAIN, coloured), batch_size=24).batches(0, 1))
    plain, view = batch.views
    assert view.colours is not None
    chances = view.colours[:, 3:] > 0
    assert (chances.any(dim=0) & ~chances.all(dim=0)).all()
    assert ((view.colours[:, :3] - 1).abs() <= 0.4 + 1e-6).all()
    assert torch.equal(recolour(plain.images.clone(), view.colours.numpy()), view.images)
    for row, (brightness, contrast, saturation, grey, sigma, inverted) in enumerate(view.colours.tolist()):
        expected = tv.adjust_contrast(tv.adjust_brightness(plain.images[row], brightness), contrast)
        expected = tv.adjust_saturation(expected, saturation)
        expected = tv.rgb_to_grayscale(expected, 3) if grey else expected
        expected = tv.gaussian_blur(expected, [3, 3], [sigma, sigma]) if sigma else expected
        if inverted:
            # The luminance weights of torchvision have four digits, which decides at the threshold.
            near = (expected - 0.5).abs() < 2e-3
            expected = torch.where(near, view.images[row], tv.solarize(expected, 0.5))
        assert torch.allclose(view.images[row], expected, atol=2e-3)


def test_blur_with_a_sigma_per_image_equals_torchvision() -> None:
    images = torch.rand(4, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 0.7, 1.3, 2.0])
    for image, value, blurred in zip(images, sigma.tolist(), gaussian_blur(images, sigma), strict=True):
        # Kernel sizes are (width, height) there: a tenth of each side, odd.
        assert torch.allclose(blurred, tv.gaussian_blur(image, [7, 5], [value, value]), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_colours_for_other_numbers_of_channels(memory_dataset: Make, channels: int) -> None:
    dataset = memory_dataset(16, channels=channels)
    spec = ViewSpec("all", (16, 16), color_jitter=0.4, grayscale=1.0, blur=1.0, solarize=1.0)
    images = next(loader(dataset, (spec,)).batches(0, 1)).images
    assert images.shape == (8, channels, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 0.5 + 1e-6


class Files:
    """Encoded pictures that count how often they are read."""

    def __init__(self, count: int, *, suffix: str = "PNG", side: int = 20) -> None:
        self.data = [encode(noise(index, side, side), suffix) for index in range(count)]
        self.reads = 0

    def __len__(self) -> int:
        return len(self.data)

    def load(self, index: int) -> bytes:
        self.reads += 1
        return self.data[index]


def files_dataset(files: Files) -> ImageDataset:
    names = [str(index) for index in range(len(files))]
    return ImageDataset(EncodedPixels(files, 3), name="files", split="train", channels=3, identifiers=names)


def test_an_image_is_decoded_once_for_all_its_views() -> None:
    files = Files(16)
    list(loader(files_dataset(files), (GLOBAL, LOCAL), storage="workers").batches(0, 2))
    assert files.reads == 16


def test_a_reduced_image_has_enough_pixels_for_every_view() -> None:
    small = ViewSpec("small", (8, 8), random_crop=True)
    large = ViewSpec("large", (64, 64), random_crop=True)
    keys = {"storage": "workers", "batch_size": 4}

    def views(reduce: bool, *specs: ViewSpec) -> Batch:
        dataset = files_dataset(Files(4, suffix="JPEG", side=96))
        return next(loader(dataset, specs, **keys, jpeg_reduction=reduce).batches(0, 1))

    # The large view allows no reduction, so the small one is cut from the whole image as well.
    whole, shared = views(False, small, large), views(True, small, large)
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole.views, shared.views, strict=True))
    assert not torch.equal(views(True, small).images, whole.images)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_has_one_centred_view(class_folder: Path, num_workers: int) -> None:
    keys = {"dataset": "folder", "data_path": class_folder}
    for storage in ("auto", "workers"):
        dataset = build_dataset(DataConfig(**keys, storage=storage))
        arguments = {"mean": [0.0] * 3, "std": [1.0] * 3, "batch_size": 5, "num_workers": num_workers, "device": CPU}
        for batch in EvalLoader(dataset, None, (8, 8), **arguments):
            (view,) = batch.views
            assert view.colours is None
            assert not view.flipped.any()
            top, left, height, width = view.boxes.T
            assert torch.allclose(2 * top + height, torch.ones(len(batch)), atol=0.1)
            assert torch.allclose(2 * left + width, torch.ones(len(batch)), atol=0.1)
            assert torch.maximum(height, width).min() == 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"count": 0}, "count"),
        ({"size": (0, 8)}, "size"),
        ({"flip": 1.5}, "flip"),
        ({"blur": -0.1}, "blur"),
        ({"color_jitter": 1.0}, "color_jitter"),
        ({"scale": (0.5, 0.4)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
    ],
)
def test_view_values_out_of_bounds_are_reported_by_name(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"'odd': {said}"):
        ViewSpec(**({"name": "odd", "size": (8, 8)} | keys))


def test_views_need_unique_names_and_two_axes(memory_dataset: Make) -> None:
    for views, said in (
        ((), "at least one"),
        ((PLAIN, PLAIN), "a unique name"),
        ((ViewSpec("v", (8,)),), "must be .height, width."),
    ):
        with pytest.raises(ValueError, match=said):
            loader(memory_dataset(8), views)


def test_views_do_not_depend_on_the_number_of_positions() -> None:
    from hjepa.data.images.crops import view_draws
    from hjepa.data.views import one_per_view

    specs = one_per_view((GLOBAL, LOCAL))
    assert np.array_equal(view_draws(specs, 3, 5, 16), view_draws(specs, 3, 5, 64)[:16])
