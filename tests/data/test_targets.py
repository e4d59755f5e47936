"""Targets follow the crops of their image, and are read only on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.image_files import encode
from torch import Tensor

from hjepa.config import DataConfig, load_config
from hjepa.data import (
    Batch,
    Boxes,
    EvalLoader,
    ImageDataset,
    ListedTargets,
    Sample,
    Targets,
    TrainLoader,
    ViewSpec,
    build_dataloader,
)
from hjepa.data.dataset import EncodedPixels, MemoryPixels, Pixels
from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.images.target_crops import crop_map, crop_objects
from hjepa.data.targets import TargetValue
from hjepa.errors import DataError, UserError

CPU = torch.device("cpu")
Make = Callable[..., ImageDataset]
PATHS = ("device", "one by one", "workers")
COUNT = 12
VIEWS = (
    ViewSpec("large", (24, 30), count=2, random_crop=True, scale=(0.2, 1.0), flip=0.5),
    ViewSpec("small", (9, 9), random_crop=True, scale=(0.05, 0.4), flip=0.5),
    ViewSpec("centre", (16, 16)),
)


class Files:
    """Encoded pictures."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        self.data = [encode(image.permute(1, 2, 0).numpy()) for image in images]

    def __len__(self) -> int:
        return len(self.data)

    def load(self, index: int) -> bytes:
        return self.data[index]


def dataset(path: str, images: Sequence[Tensor], targets: Targets | None, **keys: Any) -> ImageDataset:
    pixels: Pixels = MemoryPixels(list(images))
    if path == "device":
        pixels = MemoryPixels(torch.stack(list(images)))
    if path == "workers":
        pixels = EncodedPixels(Files(images), 3)
    names = [str(index) for index in range(len(images))]
    return ImageDataset(pixels, name="made", split="train", channels=3, identifiers=names, targets=targets, **keys)


def batches(
    images: ImageDataset, path: str, views: Sequence[ViewSpec] = VIEWS, *, workers: int = 0, asked: bool = True
) -> list[Batch]:
    storage = "workers" if path == "workers" else "device"
    data = DataConfig(batch_size=6, storage=storage, num_workers=workers, bad_images=images.bad_images)
    statistics = {"mean": [0.0] * 3, "std": [1.0] * 3}
    loader = TrainLoader(images, data, (16, 16), **statistics, seed=3, device=CPU, views=views, with_targets=asked)
    return list(loader.batches(0, 3))


def sizes(path: str) -> list[tuple[int, int]]:
    return [(40, 50)] * COUNT if path == "device" else [(40 + index, 50 - 2 * index) for index in range(COUNT)]


def ramp(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A picture whose first two channels are row and column, and a map that says the same in one number."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    return picture, (1000 * rows + columns).to(torch.int32)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_map_computed_from_the_pixels_matches_the_cropped_pixels(path: str, workers: int) -> None:
    pairs = [ramp(*size) for size in sizes(path)]
    made = dataset(path, [picture for picture, _ in pairs], ListedTargets("dense", [values for _, values in pairs]))
    for batch in batches(made, path, workers=workers if path == "workers" else 0):
        assert batch.targets is not None
        assert batch.targets.kind == "dense"
        assert len(batch.targets.dense) == len(batch.views) == 4
        for view, maps in zip(batch.views, batch.targets.dense, strict=True):
            assert maps.dtype == torch.int64
            assert maps.shape == (len(batch), *view.images.shape[2:])
            # Away from the border, where antialiasing would look beyond it, a shrunk ramp is the ramp at the centres; the
            # nearest pixel is half a pixel off, and 8-bit rounding half a level.
            inner = (slice(None), slice(1, -1), slice(1, -1))
            for channel, seen in enumerate((maps // 1000, maps % 1000)):
                assert (view.images[:, channel][inner] * 255 - seen[inner]).abs().max() <= 1.01
            mirrored = (maps[:, 0, 0] % 1000) > (maps[:, 0, -1] % 1000)
            assert torch.equal(mirrored, view.flipped)


def test_a_map_is_sampled_at_pixel_centres() -> None:
    values = torch.arange(24).view(4, 6)
    assert torch.equal(crop_map(values, (0, 0, 4, 6), False, (4, 6)), values)
    assert torch.equal(crop_map(values, (1, 2, 2, 3), True, (2, 3)), values[1:3, 2:5].flip(1))
    assert crop_map(values, (0, 0, 4, 6), False, (2, 2)).tolist() == [[7, 10], [19, 22]]
    assert crop_map(values, (0, 0, 2, 2), False, (4, 4)).tolist() == [[0, 0, 1, 1]] * 2 + [[6, 6, 7, 7]] * 2
    for dtype in (torch.uint8, torch.uint16, torch.int16):
        assert crop_map(values.to(torch.int32).to(dtype), (0, 0, 1, 6), False, (1, 3)).tolist() == [[1, 3, 5]]


@pytest.mark.parametrize("path", PATHS)
def test_boxes_still_enclose_their_objects_after_cropping(path: str) -> None:
    random = np.random.default_rng(0)
    images, objects = [], []
    for height, width in sizes(path):
        picture = torch.zeros(3, height, width, dtype=torch.uint8)
        boxes = []
        for channel in range(3):
            top, left = random.integers(0, (height - 12, width - 12))
            tall, wide = random.integers(8, 13, 2)
            picture[channel, top : top + tall, left : left + wide] = 255
            boxes.append([top, left, tall, wide])
        images.append(picture)
        objects.append(Boxes(torch.tensor(boxes, dtype=torch.float32), torch.arange(3)))
    shown = 0
    for batch in batches(dataset(path, images, ListedTargets("boxes", objects)), path):
        assert batch.targets is not None
        for view, seen in zip(batch.views, batch.targets.boxes, strict=True):
            assert len(seen) == len(batch)
            for image, (boxes, labels) in zip(view.images, seen, strict=True):
                assert boxes.shape == (len(labels), 4)
                assert (boxes[:, :2] >= 0).all()
                assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor(image.shape[1:]) + 1e-4).all()
                for (top, left, height, width), channel in zip(boxes.tolist(), labels.tolist(), strict=True):
                    shown += 1
                    # Brightness adds up to the area of the rectangle, and lies around its middle.
                    assert abs(float(image[channel].sum()) - height * width) <= 1.5 * (height + width) + 2
                    weight = image[channel] / image[channel].sum()
                    rows, columns = (torch.arange(side) + 0.5 for side in image.shape[1:])
                    assert abs(float(weight.sum(1) @ rows) - top - height / 2) < 0.8
                    assert abs(float(weight.sum(0) @ columns) - left - width / 2) < 0.8
                for channel in set(range(3)) - set(labels.tolist()):
                    # What is left out shows at most the corner of an object.
                    whole = 144 * image[0].numel() / float(view.boxes[:, 2:].prod(dim=1).min() * 40 * 27)
                    assert image[channel].sum() <= 0.1 * whole + 2
    assert shown > 50


def test_boxes_are_clipped_shifted_scaled_flipped_and_dropped() -> None:
    objects = Boxes(
        torch.tensor(
            [
                [2.0, 3.0, 4.0, 5.0],  # inside
                [0.0, 0.0, 20.0, 20.0],  # around: all that is shown is inside, a quarter of it
                [9.0, 11.0, 10.0, 10.0],  # 3 x 1 of 10 x 10 is seen: left out
                [0.0, 0.0, 2.0, 2.0],  # touches the corner: left out
                [4.0, 4.0, 0.0, 3.0],  # no area: left out
                [11.0, 2.0, 10.0, 1.0],  # exactly a tenth: stays
            ]
        ),
        torch.tensor([7, 8, 9, 10, 11, 12]),
    )
    plain = crop_objects(objects, (2, 2, 10, 10), False, (20, 40))
    assert plain.labels.tolist() == [7, 8, 12]
    assert plain.boxes.tolist() == [[0, 4, 8, 20], [0, 0, 20, 40], [18, 0, 2, 4]]
    mirrored = crop_objects(objects, (2, 2, 10, 10), True, (20, 40))
    assert mirrored.boxes.tolist() == [[0, 16, 8, 20], [0, 0, 20, 40], [18, 36, 2, 4]]
    none = crop_objects(Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)), (0, 0, 5, 5), True, (5, 5))
    assert none.boxes.shape == (0, 4)


@pytest.mark.parametrize("path", PATHS)
def test_classes_and_texts_belong_to_their_image(path: str) -> None:
    images = [ramp(*size)[0] for size in sizes(path)]
    labels = torch.arange(COUNT) * 3
    labelled = dataset(path, images, None, labels=labels)
    worded = dataset(path, images, ListedTargets("text", [f"picture {index}" for index in range(COUNT)]))
    for batch, other in zip(batches(labelled, path), batches(worded, path), strict=True):
        assert batch.targets is not None
        assert batch.targets.classes is not None
        assert batch.targets.classes.dtype == torch.int64
        assert torch.equal(batch.targets.classes, 3 * batch.indices)
        assert other.targets is not None
        assert other.targets.texts == tuple(f"picture {index}" for index in other.indices.tolist())


class Unread:
    """Targets that nobody may read."""

    kind = "text"

    def __len__(self) -> int:
        return COUNT

    def read(self, index: int) -> TargetValue:
        raise AssertionError(f"{index} is read without being asked for")

    def select(self, rows: Tensor) -> Unread:
        raise AssertionError(f"{rows} are not needed")


@pytest.mark.parametrize("path", PATHS)
def test_targets_are_not_read_unless_requested(path: str) -> None:
    images = [ramp(*size)[0] for size in sizes(path)]
    assert all(batch.targets is None for batch in batches(dataset(path, images, Unread()), path, asked=False))
    labelled = dataset(path, images, None, labels=torch.zeros(COUNT, dtype=torch.int64))
    assert all(batch.targets is None for batch in batches(labelled, path, asked=False))
    with pytest.raises(UserError, match="no labels or other targets") as error:
        batches(dataset(path, images, None), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", PATHS)
def test_evaluation_has_targets_of_the_centred_view(path: str) -> None:
    pairs = [ramp(*size) for size in sizes(path)]
    made = dataset(path, [picture for picture, _ in pairs], ListedTargets("dense", [values for _, values in pairs]))
    statistics = {"mean": [0.0] * 3, "std": [1.0] * 3, "batch_size": 5, "device": CPU}
    for batch in EvalLoader(made, None, (16, 16), **statistics, with_targets=True):
        assert batch.targets is not None
        (maps,) = batch.targets.dense
        assert (batch.images[:, 1, 1:-1, 1:-1] * 255 - (maps % 1000)[:, 1:-1, 1:-1]).abs().max() <= 1.01
    assert all(batch.targets is None for batch in EvalLoader(made, None, (16, 16), **statistics))


class Spoilt(ListedTargets):
    """Texts, one of which cannot be read."""

    def read(self, index: int) -> TargetValue:
        if index == 4:
            raise UnreadableImageError("no caption")
        return super().read(index)


def test_an_unreadable_target_counts_as_a_bad_image() -> None:
    images = [ramp(40, 50)[0]] * COUNT
    texts = [str(index) for index in range(COUNT)]
    made = dataset("workers", images, Spoilt("text", texts))
    for batch in batches(made, "workers"):
        assert batch.targets is not None
        assert 4 not in batch.indices
        assert batch.targets.texts == tuple(str(index) for index in batch.indices.tolist())
    assert [tuple(bad) for bad in made.bad_files] == [("4", "no caption")]
    strict = dataset("workers", images, Spoilt("text", texts), bad_images="stop")
    for path, held in (("workers", strict), ("device", dataset("device", images, Spoilt("text", texts)))):
        with pytest.raises(DataError, match="no caption") as error:
            batches(held, path)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="4: no caption"):
        made.sample(4)


def test_a_map_of_wrong_size_is_reported_with_its_image() -> None:
    wrong = ListedTargets("dense", torch.zeros(COUNT, 50, 40, dtype=torch.uint8))
    with pytest.raises(DataError, match="target map is 50x40, but the image is 40x50"):
        batches(dataset("device", [ramp(40, 50)[0]] * COUNT, wrong), "device")


def test_samples_and_selections_keep_pixels_and_targets_together() -> None:
    images = [ramp(8, 9)[0] + index for index in range(COUNT)]
    values = ListedTargets("dense", torch.stack([torch.full((8, 9), index) for index in range(COUNT)]))
    made = dataset("device", images, values, labels=torch.arange(COUNT))
    part = made.select([5, 2])
    for number, index in enumerate((5, 2)):
        pixels, target = part.sample(number)
        assert torch.equal(pixels, images[index])
        assert isinstance(target, Tensor)
        assert (target == index).all()
    assert isinstance(made.sample(-1), Sample)
    assert part.labels is not None
    assert part.labels.tolist() == [5, 2]
    classes = dataset("device", images, None, labels=torch.arange(COUNT)).select([7])
    assert classes.sample(0).target == 7
    assert dataset("device", images, None).sample(0).target is None


def test_a_sample_may_have_any_number_of_axes() -> None:
    volumes = torch.arange(4 * 6 * 8 * 10).view(4, 1, 6, 8, 10).to(torch.float32)
    labels = ListedTargets("dense", (volumes[:, 0] % 7).to(torch.int16))
    names = [str(index) for index in range(4)]
    made = ImageDataset(
        MemoryPixels(volumes), name="volumes", split="train", channels=1, identifiers=names, targets=labels
    )
    pixels, target = made.select([2]).sample(0)
    assert pixels.shape == (1, 6, 8, 10)
    assert isinstance(target, Tensor)
    assert torch.equal(target, (pixels[0] % 7).to(torch.int16))
    assert ViewSpec("clip", (4, 8, 8)).size == (4, 8, 8)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("class", torch.zeros(3)),
        ("class", ["cat"]),
        ("dense", torch.zeros(3, 4, 4)),
        ("dense", torch.zeros(3, dtype=torch.int64)),
        ("boxes", [Boxes(torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64))]),
        ("text", [1]),
    ],
)
def test_a_value_of_the_wrong_kind_is_rejected(kind: Any, values: Any) -> None:
    with pytest.raises(TypeError, match=f"target 0: expected a target of kind '{kind}'"):
        ListedTargets(kind, values)
    with pytest.raises(ValueError, match="identifiers, labels and targets need one entry"):
        dataset("device", [ramp(4, 4)[0]], ListedTargets("text", ["one", "two"]))


def test_build_dataloader_returns_views_and_targets() -> None:
    config = load_config(None, {"data.dataset": "digits", "model.encoder_type": "vit_tiny_patch4_8"})
    views = (ViewSpec("a", (8, 8), count=2, random_crop=True), ViewSpec("b", (4, 4)))
    loader = build_dataloader(config, views=views, targets=True)
    assert isinstance(loader, TrainLoader)
    batch = next(loader.batches(0, 1))
    assert [view.spec for view in batch.views] == ["a", "a", "b"]
    assert batch.targets is not None
    assert batch.targets.classes is not None
    assert torch.equal(batch.targets.classes, loader.dataset.labels[batch.indices])
    assert next(build_dataloader(config).batches(0, 1)).targets is None
    test = build_dataloader(config, "test", targets=True)
    assert isinstance(test, EvalLoader)
    first = next(iter(test))
    assert first.targets is not None
    assert torch.equal(first.targets.classes, test.dataset.labels[first.indices])
    with pytest.raises(ValueError, match="the test split always has one view"):
        build_dataloader(config, "test", views=views)
