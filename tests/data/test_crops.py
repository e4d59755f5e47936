"""Crops: exactness against torchvision, distribution of boxes, jitter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from hjepa.config import DataConfig
from hjepa.data import ViewSpec, default_views
from hjepa.data.images.crops import augmentation_draws, centre_boxes, jitter_factors, random_crops
from hjepa.data.images.photometric import color_jitter, normalise
from hjepa.data.images.resample import crop_batch, crop_one, crop_one_8_bit, crop_reduced, largest_reduction

SIZES = np.array([[32, 32], [20, 50], [47, 31], [200, 300]])


def view(size: tuple[int, int], **keys: object) -> ViewSpec:
    (spec,) = default_views(DataConfig(augmentation=keys), size)
    return spec


def boxes_for(size: tuple[int, int], count: int = 4000, **keys: object) -> np.ndarray:
    draws = augmentation_draws(0, 0, count)
    return random_crops(draws, np.tile([size], (count, 1)), view((32, 32), **keys)).boxes


@pytest.mark.parametrize("out_size", [(24, 24), (224, 224), (7, 7), (30, 11)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_batch_and_single_crops_equal_torchvision(out_size: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(6, 3, 40, 56, generator=generator)
    top = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}[dtype]
    images = values if top == 1 else (values * top).to(torch.int32).to(dtype)
    unit = images.to(torch.float32) / top
    boxes = torch.tensor(
        [[0, 0, 40, 56], [39, 55, 1, 1], [5, 7, 24, 24], [3, 0, 37, 9], [0, 16, 2, 40], [10, 10, 12, 40]]
    )
    flips = torch.tensor([False, True, True, False, True, False])
    batch = crop_batch(images, boxes, flips, out_size)
    for row, (box, flip) in enumerate(zip(boxes.tolist(), flips.tolist(), strict=True)):
        expected = tv.resized_crop(unit[row], *box, size=list(out_size), antialias=True)
        expected = expected.flip(-1) if flip else expected
        assert torch.allclose(batch[row], expected, atol=1e-4, rtol=0)
        assert torch.allclose(crop_one(images[row], tuple(box), flip, out_size), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_8_bit_crops_are_within_a_grey_level(channels: int, side_by_side: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    image = torch.randint(0, 256, (channels, 61, 83), generator=generator).to(torch.uint8)
    if side_by_side:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for out_size in [(1, 1), (40, 1), (1, 40), (8, 8), (61, 83), (20, 30), (97, 64)]:
        for box in [(0, 0, 61, 83), (20, 30, 41, 53), (3, 1, 2, 70), (60, 82, 1, 1), (5, 7, 20, 30)]:
            for flip in (False, True):
                exact = crop_one(image, box, flip, out_size) * 255
                fast = crop_one_8_bit(image, box, flip, out_size)
                assert fast.dtype == torch.uint8
                assert fast.is_contiguous()
                assert (fast - exact).abs().max() < 1.01, (out_size, box)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_reduced_images_keep_position_and_size(channels: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(61), torch.arange(83), indexing="ij")
    image = (2 * rows + columns).to(torch.uint8).expand(channels, -1, -1)
    # Smaller by averages of squares, as a JPEG decoder does; the last row and column are repeated to make them whole.
    for factor in (2, 4):
        padded = torch.nn.functional.pad(image.float()[None], (0, -83 % factor, 0, -61 % factor), mode="replicate")
        small = torch.nn.functional.avg_pool2d(padded, factor)[0].round().to(torch.uint8)
        for box in [(0, 0, 61, 83), (7, 9, 33, 50), (21, 30, 40, 53)]:
            for flip in (False, True):
                exact = crop_one(image, box, flip, (8, 12)) * 255
                reduced = crop_reduced(small, factor, box, flip, (8, 12))
                assert reduced.shape == exact.shape
                # Half a reduced pixel of shift would be one to four grey levels everywhere; rounding is below one.
                assert (reduced - exact).mean().abs() < 0.8
                assert (reduced - exact).abs().max() < 2.5


def test_an_image_is_never_reduced_below_the_output() -> None:
    assert [largest_reduction((0, 0, side, 900), (32, 32)) for side in (20, 32, 63, 64, 127, 128, 255, 256, 5000)] == [
        *(1, 1, 1, 2, 2, 4, 4, 8, 8)
    ]
    assert largest_reduction((0, 0, 900, 63), (32, 32)) == 1
    assert largest_reduction((0, 0, 900, 900), (224, 450)) == 2


@pytest.mark.parametrize("size", [tuple(size) for size in SIZES.tolist()])
def test_boxes_are_inside_and_reach_every_edge(size: tuple[int, int]) -> None:
    boxes = boxes_for(size, crop_scale=(0.1, 1.0))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    ends = boxes[:, :2] + boxes[:, 2:]
    assert (ends <= size).all()
    assert (boxes[:, :2].min(axis=0) == 0).all()
    assert (ends.max(axis=0) == size).all()


def test_area_and_ratio_are_uniform_and_independent() -> None:
    # A scale at which every candidate fits, so that nothing is rejected.
    boxes = boxes_for((400, 400), count=20000, crop_scale=(0.1, 0.5), crop_ratio=(0.5, 2.0))
    area = boxes[:, 2] * boxes[:, 3] / 400**2
    ratio = np.log(boxes[:, 3] / boxes[:, 2]) / np.log(2)
    for values, low, high in ((area, 0.1, 0.5), (ratio, -1.0, 1.0)):
        shares = np.histogram(values, bins=10, range=(low, high))[0] / len(boxes)
        assert np.abs(shares - 0.1).max() < 0.015
    assert abs(np.corrcoef(area, ratio)[0, 1]) < 0.03
    top = boxes[:, 0] / (400 - boxes[:, 2])
    assert np.abs(np.histogram(top, bins=10, range=(0, 1))[0] / len(boxes) - 0.1).max() < 0.015


def test_boxes_have_the_distribution_of_torchvision() -> None:
    from torchvision.transforms import RandomResizedCrop

    size, scale, ratio = (30, 60), (0.2, 1.0), (0.75, 4 / 3)
    ours = boxes_for(size, count=4000, crop_scale=scale, crop_ratio=ratio)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, *size)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(4000)])
    for column in range(4):
        quantiles = np.linspace(0.05, 0.95, 10)
        difference = np.quantile(ours[:, column], quantiles) - np.quantile(theirs[:, column], quantiles)
        assert np.abs(difference).max() <= 2


def test_a_ratio_that_never_fits_falls_back_to_the_centre() -> None:
    boxes = boxes_for((10, 1000), count=5, crop_scale=(1.0, 1.0), crop_ratio=(0.75, 4 / 3))
    assert boxes.tolist() == [[0, 493, 10, 13]] * 5


def test_half_of_the_images_are_flipped_only_if_enabled() -> None:
    draws = augmentation_draws(0, 0, 2000)
    sizes = np.tile([[32, 32]], (2000, 1))
    flips = random_crops(draws, sizes, view((32, 32))).flips
    assert abs(flips.mean() - 0.5) < 0.05
    assert not random_crops(draws, sizes, view((32, 32), horizontal_flip=False)).flips.any()


def test_without_random_crop_the_box_is_centred_with_the_output_aspect_ratio() -> None:
    draws = augmentation_draws(0, 0, len(SIZES))
    crops = random_crops(draws, SIZES, view((16, 32), random_crop=False))
    assert np.array_equal(crops.boxes, centre_boxes(SIZES, (16, 32)))
    assert crops.boxes.tolist() == [[8, 0, 16, 32], [0, 5, 20, 40], [15, 0, 16, 31], [25, 0, 150, 300]]


def test_draws_depend_on_seed_step_and_position_only() -> None:
    draws = augmentation_draws(3, 5, 64)
    assert np.array_equal(augmentation_draws(3, 5, 16), draws[:16])
    for other in (
        augmentation_draws(3, 6, 64),
        augmentation_draws(4, 5, 64),
        augmentation_draws(3, 5, 64, view=1),
    ):
        assert not np.isclose(other, draws).any()


def test_jitter_factors_are_uniform_and_one_leaves_images_unchanged() -> None:
    factors = jitter_factors(augmentation_draws(0, 0, 5000), 0.4)
    assert factors.min() >= 0.6 - 1e-6
    assert factors.max() <= 1.4 + 1e-6
    assert np.abs(factors.mean(axis=0) - 1).max() < 0.02
    assert abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.05
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(color_jitter(images, torch.ones(4, 3)), images, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_jitter_equals_torchvision_image_by_image(channels: int) -> None:
    images = torch.rand(6, channels, 9, 11, generator=torch.Generator().manual_seed(1))
    factors = torch.from_numpy(jitter_factors(augmentation_draws(0, 1, 6), 0.8))
    result = color_jitter(images, factors)
    assert result.min() >= 0
    assert result.max() <= 1
    if channels == 5:  # torchvision has no opinion
        return
    for image, jittered, (brightness, contrast, saturation) in zip(images, result, factors.tolist(), strict=True):
        expected = tv.adjust_contrast(tv.adjust_brightness(image, brightness), contrast)
        if channels == 3:
            expected = tv.adjust_saturation(expected, saturation)
        # torchvision rounds the luminance weights to four digits.
        assert torch.allclose(jittered, expected, atol=2e-3)


def test_normalise() -> None:
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = tv.normalize(images, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert torch.allclose(normalise(images.clone(), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), expected, atol=1e-6)
