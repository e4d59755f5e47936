"""Few-shot episodes against scikit-learn, and the interval of a mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from hjepa.metrics import centred_unit, draw_episodes, episode_accuracy, interval


def features(classes: int = 7, each: int = 22, width: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, width, generator=generator)
    return centres[labels] + 1.5 * torch.randn(len(labels), width, generator=generator), labels


@pytest.mark.parametrize("shots", [1, 5])
def test_accuracy_of_every_episode_equals_scikit_learns_nearest_centroid(shots: int) -> None:
    x, labels = features()
    x = centred_unit(x, x.mean(dim=0))
    generator = np.random.default_rng(1)
    episodes = draw_episodes(labels, ways=5, shots=shots, queries=15, episodes=120, generator=generator)
    found = episode_accuracy(x, episodes)
    assert found.shape == (120,)
    for number in range(120):
        support, query = episodes.support[number], episodes.query[number]
        truth = labels[query].flatten()
        model = NearestCentroid().fit(x[support.flatten()].numpy(), labels[support.flatten()].numpy())
        assert float(found[number]) == pytest.approx(model.score(x[query.flatten()].numpy(), truth.numpy()))
    assert found.std() > 0


def test_episodes_have_different_classes_and_no_image_twice() -> None:
    _, labels = features(each=20)
    labels[labels == 0] = 1  # class 0 has no image left, class 1 has 40
    episodes = draw_episodes(labels, ways=5, shots=5, queries=15, episodes=50, generator=np.random.default_rng(0))
    drawn = torch.cat([episodes.support, episodes.query], dim=2)
    assert all(len(rows.unique()) == 100 for rows in drawn)
    classes = labels[drawn]
    assert (classes == classes[..., :1]).all()
    assert all(len(row.unique()) == 5 for row in classes[..., 0])
    with pytest.raises(ValueError, match="1 classes have 21 images"):
        draw_episodes(labels, ways=5, shots=6, queries=15, episodes=1, generator=np.random.default_rng(0))


def test_the_interval_is_that_of_students_t() -> None:
    values = torch.tensor([0.2, 0.5, 0.4, 0.9])
    mean, half = interval(values)
    assert half is not None
    expected = stats.t.interval(0.95, 3, loc=values.numpy().mean(), scale=stats.sem(values.numpy()))
    assert (mean - half, mean + half) == pytest.approx(expected, rel=1e-6)
    assert interval(values[:1]) == (pytest.approx(0.2), None)
