"""The attentive probe: at its start the mean over tokens, then better than the mean where the place varies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hjepa.metrics import accuracy
from hjepa.metrics.attentive import AttentivePooling, AttentiveProbe, attentive_probe, predict


def needle(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """One token of sixteen holds the class, marked by a constant; the others hold other classes, unmarked."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(images, 16, 12)
    other = torch.randint(0, 4, (images, 16), generator=generator)
    tokens.scatter_(2, other[:, :, None], 3.0)
    place = torch.randint(0, 16, (images,), generator=generator)
    tokens[torch.arange(images), place, 8] = 3.0
    labels = other[torch.arange(images), place]
    return tokens + 0.3 * torch.randn(tokens.shape, generator=generator), labels


def test_pooling_starts_as_the_mean() -> None:
    tokens = torch.randn(3, 7, 12)
    mean, std = torch.randn(12), torch.rand(12) + 0.5
    probe = AttentiveProbe([mean], [std], 12)
    torch.nn.init.eye_(probe.head.weight)
    assert torch.allclose(probe([tokens]), (tokens.mean(dim=1) - mean) / std, atol=1e-5)


def test_it_attends_to_standardised_tokens() -> None:
    tokens = 5 + 3 * torch.randn(4, 9, 8)
    mean, std = torch.full((8,), 5.0), torch.full((8,), 3.0)
    pool = AttentivePooling(mean, std, 2)
    torch.nn.init.normal_(pool.query)
    scores = (tokens - mean) / std @ pool.query.T / 8**0.5
    expected = scores.softmax(dim=1).transpose(1, 2)
    assert torch.allclose(pool.attention(tokens), expected, atol=1e-5)


def test_it_finds_what_the_mean_over_tokens_hides() -> None:
    tokens, labels = needle(1500, 0)
    test, test_labels = needle(500, 1)
    mean = LogisticRegression(max_iter=500).fit(tokens.mean(dim=1).numpy(), labels.numpy())
    linear = mean.score(test.mean(dim=1).numpy(), test_labels.numpy())
    found = attentive_probe([tokens.half()], labels, num_classes=4, weight_decays=(0.01, 0.1), epochs=25)
    attentive = accuracy(predict(found.probe, [test], torch.device("cpu")).argmax(dim=1), test_labels)
    assert linear < 0.55
    assert attentive > 0.9
    assert set(found.validation) == {0.01, 0.1}
    weight = found.probe.pooling[0].attention(test)
    assert torch.allclose(weight.sum(dim=2), torch.ones(500, weight.shape[1]), atol=1e-4)


def test_without_attention_it_agrees_with_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 3, (900,), generator=generator)
    centres = torch.randn(3, 8, generator=generator)
    x = centres[labels] + 1.2 * torch.randn(900, 8, generator=generator)
    train, test = slice(0, 600), slice(600, 900)
    # With one token per image attention has nothing to choose from.
    found = attentive_probe([x[train, None]], labels[train], num_classes=3, weight_decays=(0.01,), epochs=10)
    scores = predict(found.probe, [x[test, None]], torch.device("cpu"))
    model = LogisticRegression(max_iter=1000).fit(x[train].numpy(), labels[train].numpy())
    agree = np.mean(model.predict(x[test].numpy()) == scores.argmax(dim=1).numpy())
    assert agree > 0.95


def test_levels_of_different_grids_are_probed_together_and_repeat_exactly() -> None:
    tokens, labels = needle(120, 3)
    levels = [tokens, tokens[:, ::4, :8]]
    first, again = (attentive_probe(levels, labels, num_classes=4, weight_decays=(0.1,), seed=5) for _ in range(2))
    assert torch.equal(
        predict(first.probe, levels, torch.device("cpu")), predict(again.probe, levels, torch.device("cpu"))
    )
    assert first.probe.head.weight.shape == (4, 20)


def test_constant_dimensions_are_ignored() -> None:
    probe = AttentiveProbe([torch.full((4,), 7.0)], [torch.tensor([1.0, 1.0, 1.0, 0.0])], 2)
    tokens = torch.randn(5, 3, 4)
    moved = tokens.clone()
    moved[..., 3] += 100
    torch.nn.init.ones_(probe.head.weight)
    assert torch.allclose(probe([tokens]), probe([moved]), atol=1e-4)


def test_mistakes_are_refused() -> None:
    tokens, labels = needle(4, 0)
    with pytest.raises(ValueError, match="no class has two images"):
        attentive_probe([tokens], torch.arange(4), num_classes=4)
    with pytest.raises(ValueError, match="images for 3 labels"):
        attentive_probe([tokens], labels[:3], num_classes=4)
