"""Position share of features that depend only on position, and of features independent of it."""

import pytest
import torch

from hjepa.metrics import position_share


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_position_share_of_position_only_and_of_noise() -> None:
    place = noise(1, 16, 8).expand(50, 16, 8)
    assert position_share(place) == pytest.approx(1.0)
    assert position_share(noise(50, 16, 8)) < 0.02
    mixed = position_share(place + noise(50, 16, 8, seed=1))
    assert 0.3 < mixed < 0.7
    assert position_share(torch.ones(50, 16, 8)) is None
    assert position_share(noise(1, 16, 8)) is None
