"""Corruptions: reproducible, independent of the batch, and the stronger the higher the severity."""

import pytest
import torch

from hjepa.data.shapes import generate
from hjepa.evaluation.corruptions import KINDS, SEVERITIES, corrupt

IMAGES = generate(12)[0].float() / 255


@pytest.mark.parametrize("kind", KINDS)
def test_corruptions_repeat_and_do_not_depend_on_the_batch(kind):
    whole = corrupt(IMAGES, kind, 3, range(12), seed=5)
    assert torch.equal(whole, corrupt(IMAGES, kind, 3, range(12), seed=5))
    part = corrupt(IMAGES[4:6], kind, 3, [4, 5], seed=5)
    # Sums of filters may be ordered differently in another batch; rounding to 8 bits may then differ by one step.
    assert (part - whole[4:6]).abs().max() <= 1.01 / 255


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog", "elastic"])
def test_random_corruptions_depend_on_the_seed_and_the_image(kind):
    same = IMAGES[:1].expand(2, -1, -1, -1)
    first, second = corrupt(same, kind, 3, [0, 1], seed=0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, corrupt(same, kind, 3, [0, 1], seed=1)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_higher_severities_change_more(kind):
    change = [float((corrupt(IMAGES, kind, s, range(12), 0) - IMAGES).square().mean()) for s in SEVERITIES]
    assert change == sorted(change)
    assert change[-1] > 1.3 * change[0] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 1, 20, 33), (2, 5, 16, 16), (1, 3, 64, 48)])
def test_any_size_and_number_of_channels(kind, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for severity in (1, 5):
        found = corrupt(images, kind, severity, range(shape[0]), 0)
        assert found.shape == shape
        assert found.dtype == torch.float32
        assert 0 <= found.min() <= found.max() <= 1


def test_a_severity_looks_alike_at_every_size():
    small, large = (generate(8, image_size=size)[0].float() / 255 for size in (32, 96))
    for kind in ("defocus_blur", "zoom_blur", "fog"):
        change = [float((corrupt(x, kind, 4, range(8), 0) - x).abs().mean()) for x in (small, large)]
        assert 0.4 < change[0] / change[1] < 2.5, kind


def test_motion_blur_averages_and_keeps_flat_images():
    flat = torch.full((2, 3, 32, 32), 0.6)
    for kind in ("defocus_blur", "motion_blur", "zoom_blur", "elastic", "pixelate", "contrast"):
        assert (corrupt(flat, kind, 5, [0, 1], 0) - 0.6).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("kind", "severity"), [("rain", 1), ("fog", 0), ("fog", 6)])
def test_unknown_kinds_and_severities(kind, severity):
    with pytest.raises(ValueError, match="must be"):
        corrupt(IMAGES, kind, severity, range(12), 0)
