"""Properties of the data set ``shapes``."""

import math

import pytest
import torch
from torch import Tensor

from hjepa.data import shape_fields, shapes

Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def reference_set() -> Data:
    return shapes.generate(600)


def test_shapes_types_and_range() -> None:
    images, labels = shapes.generate(40)
    assert images.shape == (40, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.shape == (40,)
    assert labels.dtype == torch.int64
    assert int(labels.min()) >= 0
    assert int(labels.max()) < len(shapes.CLASSES)
    assert len(set(shapes.CLASSES)) == len(shapes.CLASSES)
    assert isinstance(shapes.VERSION, int)


def test_same_arguments_same_result() -> None:
    first, second = shapes.generate(64, seed=3), shapes.generate(64, seed=3)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("count", [1, 7, 100, 251, 600])
@pytest.mark.parametrize("chunk", [1, 33, 250, 1000])
def test_image_is_independent_of_count_and_chunk(reference_set: Data, count: int, chunk: int) -> None:
    reference, reference_labels = reference_set
    count = min(count, 60) if chunk == 1 else count
    images, labels = shapes.generate(count, chunk=chunk)
    assert torch.equal(images, reference[:count])
    assert torch.equal(labels, reference_labels[:count])


def test_image_is_independent_of_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = shapes.generate(300, image_size=(31, 33))[0]
        torch.set_num_threads(3)
        three = shapes.generate(300, image_size=(31, 33))[0]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


def test_global_generator_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = shapes.generate(20)[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(shapes.generate(20)[0], first)


def test_splits_and_seeds_share_no_image() -> None:
    sets = [shapes.generate(200, split=split, seed=seed)[0] for split in shapes.SPLITS for seed in (0, 1)]
    rows = torch.cat(sets).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows)


@pytest.mark.parametrize("count", [1, 5, 16, 99, 1003])
@pytest.mark.parametrize("split", shapes.SPLITS)
def test_classes_are_balanced(count: int, split: str) -> None:
    labels = shapes.generate(count, image_size=8, split=split, channels=1)[1]
    counts = torch.bincount(labels, minlength=len(shapes.CLASSES))
    assert int(counts.max() - counts.min()) <= 1


def test_order_of_classes_varies() -> None:
    classes = len(shapes.CLASSES)
    blocks = shapes.generate(20 * classes, image_size=8)[1].view(20, classes)
    assert len(torch.unique(blocks, dim=0)) > 10


@pytest.mark.parametrize("size", [8, 64, (24, 40), (40, 24), (9, 17)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_size_and_channels(size: int | tuple[int, int], channels: int) -> None:
    images, labels = shapes.generate(11, image_size=size, channels=channels)
    height, width = (size, size) if isinstance(size, int) else size
    assert images.shape == (11, channels, height, width)
    # The class order belongs to the index, not to the picture format.
    assert torch.equal(labels, shapes.generate(11)[1])
    assert bool((images.flatten(1).float().std(dim=1) > 1.0).all())


def test_channels_differ() -> None:
    image = shapes.generate(1)[0][0]
    assert not torch.equal(image[0], image[1])


def test_size_changes_the_sampling_but_not_the_scene() -> None:
    small = shapes.generate(100, image_size=32)[0].float()
    large = shapes.generate(100, image_size=64)[0].float()
    error = (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean()
    shuffled = (torch.nn.functional.avg_pool2d(large, 2).roll(1, dims=0) - small).abs().mean()
    assert float(error) < 0.2 * float(shuffled)


def test_no_images() -> None:
    images, labels = shapes.generate(0, image_size=(8, 12), channels=2)
    assert images.shape == (0, 2, 8, 12)
    assert labels.shape == (0,)
    assert images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"count": -1}, "count"),
        ({"count": 2.5}, "count"),
        ({"count": True}, "count"),
        ({"image_size": 4}, "image_size"),
        ({"image_size": (32, 0)}, "image_size"),
        ({"image_size": (32, 32, 3)}, "image_size"),
        ({"image_size": 32.0}, "image_size"),
        ({"split": "training"}, "split"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": None}, "seed"),
        ({"channels": 0}, "channels"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], name: str) -> None:
    complete: dict[str, object] = {"count": 1, **arguments}
    with pytest.raises(ValueError, match=name):
        shapes.generate(**complete)  # type: ignore[arg-type]


def test_numbers_with_an_index_are_accepted() -> None:
    count = torch.tensor(3)
    assert len(shapes.generate(count)[0]) == 3  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------
# Fields


def _plane(side: int = 801, reach: float = 2.0) -> tuple[Tensor, Tensor, float]:
    axis = torch.linspace(-reach, reach, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y, float(axis[1] - axis[0])


@pytest.mark.parametrize("label", range(len(shapes.CLASSES)))
def test_every_shape_has_the_same_area(label: int) -> None:
    x, y, spacing = _plane()
    area = float((shape_fields.signed_distance(label, x, y) < 0.0).float().sum()) * spacing**2
    assert area == pytest.approx(math.pi, rel=0.01)


@pytest.mark.parametrize("label", range(len(shapes.CLASSES)))
def test_every_shape_is_mirror_symmetric(label: int) -> None:
    x, y, _ = _plane(101)
    field = shape_fields.signed_distance(label, x, y)
    torch.testing.assert_close(field, field.flip(1), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("label", range(len(shapes.CLASSES)))
def test_field_never_exceeds_the_distance(label: int) -> None:
    # A slope above 1 would make outlines harder than one pixel.
    x, y, spacing = _plane(401)
    field = shape_fields.signed_distance(label, x, y)
    for dim in (0, 1):
        assert float(field.diff(dim=dim).abs().max()) <= spacing * 1.01


def test_wave_is_periodic_bounded_and_balanced() -> None:
    phase = torch.linspace(-3.0, 3.0, 6001)[:-1]
    value = shape_fields.wave(phase)
    assert float(value.abs().max()) <= 1.0
    assert float(value.mean()) == pytest.approx(0.0, abs=1e-4)
    torch.testing.assert_close(value[:1000], value[1000:2000], rtol=0.0, atol=1e-4)
    torch.testing.assert_close(value, torch.sin(2.0 * math.pi * phase), rtol=0.0, atol=0.07)


def test_noise_has_mean_zero_and_variance_one() -> None:
    words = shape_fields.random_bits(5, torch.arange(50), torch.arange(1))[:, 0]
    noise = shape_fields.pixel_noise(words, 4096)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.var()) == pytest.approx(1.0, abs=0.02)
    # Neither neighbouring pixels nor neighbouring images are correlated.
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.02
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.02


def test_uniform_numbers_are_uniform() -> None:
    value = shape_fields.random_uniform(9, torch.arange(2000), torch.arange(20))
    assert float(value.min()) >= 0.0
    assert float(value.max()) < 1.0
    counts = torch.histc(value, bins=10, min=0.0, max=1.0) / value.numel()
    torch.testing.assert_close(counts, torch.full_like(counts, 0.1), rtol=0.0, atol=0.01)
    assert abs(float(torch.corrcoef(value.T).fill_diagonal_(0.0).abs().max())) < 0.15


# ----------------------------------------------------------------------------------------------------
# What images say about the class


def test_mean_brightness_does_not_predict_the_class() -> None:
    images, labels = shapes.generate(4000)
    mean = images.float().mean(dim=(1, 2, 3))
    groups = [mean[labels == label] for label in range(len(shapes.CLASSES))]
    between = torch.stack([group.mean() for group in groups]).std()
    assert float(between) < 0.15 * float(mean.std())


def test_object_may_be_lighter_or_darker() -> None:
    images, labels = shapes.generate(2000)
    disks = images[labels == shapes.CLASSES.index("disk")].float().mean(dim=1)
    centre = disks[:, 14:18, 14:18].mean(dim=(1, 2))
    border = torch.cat([disks[:, :2].flatten(1), disks[:, -2:].flatten(1)], dim=1).mean(dim=1)
    lighter = float((centre > border).float().mean())
    assert 0.3 < lighter < 0.7
