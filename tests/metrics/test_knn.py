"""k-NN against scikit-learn and against votes counted by hand."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from hjepa.metrics import accuracy, knn_predict, leave_one_out, nearest_neighbours
from hjepa.metrics import knn as knn_module


def clusters(count: int, width: int, classes: int, seed: int, spread: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, width, generator=g), labels


def test_neighbours_and_similarities_equal_scikit_learn():
    train, labels = clusters(300, 16, 5, seed=0)
    test, _ = clusters(70, 16, 5, seed=1)
    similarities, rows = nearest_neighbours(train, test, 7)
    reference = KNeighborsClassifier(n_neighbors=7, metric="cosine", algorithm="brute")
    reference.fit(train.numpy(), labels.numpy())
    distances, expected = reference.kneighbors(test.numpy())
    assert np.array_equal(rows.numpy(), expected)
    np.testing.assert_allclose(1 - similarities.numpy(), distances, atol=1e-6)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_untied_votes_equal_scikit_learn(k):
    train, labels = clusters(400, 12, 6, seed=2, spread=1.5)
    test, _ = clusters(200, 12, 6, seed=3, spread=1.5)
    reference = KNeighborsClassifier(n_neighbors=k, metric="cosine", algorithm="brute")
    reference.fit(train.numpy(), labels.numpy())
    shares = reference.predict_proba(test.numpy())
    top_two = np.sort(shares, axis=1)[:, -2:]
    clear = top_two[:, 1] > top_two[:, 0]
    assert clear.sum() > 100
    predicted = knn_predict(train, labels, test, k=k)[k]
    assert np.array_equal(predicted.numpy()[clear], reference.predict(test.numpy())[clear])


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_weighted_votes_equal_scikit_learn(temperature):
    train, labels = clusters(400, 12, 6, seed=2, spread=1.5)
    test, _ = clusters(200, 12, 6, seed=3, spread=1.5)
    reference = KNeighborsClassifier(
        n_neighbors=10, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature)
    )
    reference.fit(train.numpy(), labels.numpy())
    predicted = knn_predict(train, labels, test, k=10, weighted=True, temperature=temperature)[10]
    assert np.array_equal(predicted.numpy(), reference.predict(test.numpy()))


def test_one_search_serves_every_k():
    train, labels = clusters(200, 8, 4, seed=4)
    test, _ = clusters(50, 8, 4, seed=5)
    together = knn_predict(train, labels, test, k=[1, 3, 9])
    assert sorted(together) == [1, 3, 9]
    for k, predicted in together.items():
        assert torch.equal(predicted, knn_predict(train, labels, test, k=k)[k])


def test_a_tie_goes_to_the_nearer_class():
    query = torch.tensor([[1.0, 0.0]])
    angles = torch.tensor([0.05, 0.4, 0.2, 0.21])
    train = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 1])
    # Two votes each. Distances 1 - cos: class 0 has the nearest one but the larger sum.
    distance = 1 - angles.cos()
    assert distance[:2].sum() > distance[2:].sum()
    assert knn_predict(train, labels, query, k=4)[4].item() == 1
    # A majority wins regardless of the distances.
    assert knn_predict(train, torch.tensor([1, 0, 0, 0]), query, k=4)[4].item() == 0


def test_block_size_does_not_change_the_result(monkeypatch):
    train, labels = clusters(150, 8, 4, seed=6)
    test, _ = clusters(64, 8, 4, seed=7)
    whole = knn_predict(train, labels, test, k=5)[5]
    monkeypatch.setattr(knn_module, "_SIMILARITIES_AT_ONCE", 450)
    assert torch.equal(whole, knn_predict(train, labels, test, k=5)[5])


@pytest.mark.parametrize("columns", [640, 655, 4000])
@pytest.mark.parametrize("k", [1, 5])
def test_the_largest_of_long_rows_equal_topk(columns, k):
    similarities = torch.randn(9, columns, generator=torch.Generator().manual_seed(columns + k))
    # The largest values adjacent, in one group, and in the columns of the incomplete last group.
    similarities[0, :k] += 10
    similarities[1, :: columns // knn_module._GROUP] += 10
    similarities[2, -k:] += 10
    assert columns // knn_module._GROUP >= 8 * k, "too short for the second way"
    values, indices = knn_module._largest(similarities, k)
    expected = similarities.topk(k, dim=1)
    assert torch.equal(values, expected.values)
    assert torch.equal(indices, expected.indices)


def test_ties_in_long_rows_still_give_the_largest():
    similarities = torch.randint(0, 4, (20, 900), generator=torch.Generator().manual_seed(0)).float()
    values, indices = knn_module._largest(similarities, 5)
    assert torch.equal(values, similarities.topk(5, dim=1).values)
    assert torch.equal(similarities.gather(1, indices), values)
    assert all(len(set(row.tolist())) == 5 for row in indices)


def test_scale_is_irrelevant_and_zero_rows_are_handled():
    train, labels = clusters(100, 8, 4, seed=8)
    test, truth = clusters(40, 8, 4, seed=9)
    scaled = train * torch.linspace(0.1, 50, 100)[:, None]
    assert torch.equal(knn_predict(train, labels, test, k=3)[3], knn_predict(scaled, labels, test, k=3)[3])
    train[0] = 0
    predicted = knn_predict(train, labels, test, k=3)[3]
    assert accuracy(predicted, truth) > 0.5


@pytest.mark.parametrize("k", [0, -1, 101, [1, 101], []])
def test_impossible_k_is_refused(k):
    train, labels = clusters(100, 8, 4, seed=8)
    with pytest.raises(ValueError, match=r"^k: "):
        knn_predict(train, labels, train, k=k)


def test_bad_input_is_refused():
    train, labels = clusters(100, 8, 4, seed=8)
    with pytest.raises(ValueError, match="labels for 100"):
        knn_predict(train, labels[1:], train, k=1)
    with pytest.raises(ValueError, match="the classes are 0 to 2"):
        knn_predict(train, labels, train, k=1, num_classes=3)
    with pytest.raises(ValueError, match="-1 to 3"):
        knn_predict(train, labels.where(labels > 0, -1), train, k=1)
    with pytest.raises(ValueError, match="width 7"):
        knn_predict(train, labels, train[:, :7], k=1)
    with pytest.raises(ValueError, match="NaN"):
        knn_predict(train.index_fill(0, torch.tensor([3]), torch.nan), labels, train, k=1)
    with pytest.raises(ValueError, match=r"images, width"):
        knn_predict(train[None], labels, train, k=1)
    with pytest.raises(ValueError, match="floating-point"):
        knn_predict(train.long(), labels, train, k=1)


def test_leaving_one_out_equals_scikit_learn():
    features, labels = clusters(300, 12, 6, seed=2, spread=1.5)
    # Without X, scikit-learn too leaves each row out of its own neighbours.
    reference = KNeighborsClassifier(n_neighbors=7, metric="cosine", algorithm="brute").fit(
        features.numpy(), labels.numpy()
    )
    votes = labels.numpy()[reference.kneighbors(return_distance=False)]
    counts = np.stack([(votes == c).sum(axis=1) for c in range(6)], axis=1)
    top_two = np.sort(counts, axis=1)[:, -2:]
    clear = top_two[:, 1] > top_two[:, 0]
    assert clear.sum() > 100
    predicted = leave_one_out(features, labels, k=7)
    assert np.array_equal(predicted.numpy()[clear], counts.argmax(axis=1)[clear])


def test_an_image_never_votes_for_itself_even_among_copies():
    # Ten copies, of which one has another label: nobody else shares it.
    labels = torch.tensor([1, *[0] * 9])
    assert leave_one_out(torch.ones(10, 4), labels, k=3).tolist() == [0] * 10
    # More copies than neighbours are searched, so that some do not find themselves.
    assert leave_one_out(torch.ones(400, 4), torch.zeros(400, dtype=torch.int64), k=2).tolist() == [0] * 400


@pytest.mark.parametrize("k", [0, 10])
def test_leaving_one_out_refuses_an_impossible_k(k):
    with pytest.raises(ValueError, match="k:"):
        leave_one_out(torch.ones(10, 4), torch.zeros(10, dtype=torch.int64), k=k)
