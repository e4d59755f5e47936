"""Probe and k-NN on synthetic representations of known quality."""

import pytest
import torch

from hjepa.evaluation.scores import Representation, Task, knn_scores, probe_scores, side_by_side

TRAIN, TEST, CLASSES = 240, 120, 4


def labels(count: int) -> torch.Tensor:
    return torch.arange(count) % CLASSES


def signal(count: int, seed: int, strength: float) -> torch.Tensor:
    centres = torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(50))
    noise = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return strength * centres[labels(count)] + noise


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(labels(TRAIN), {"test": labels(TEST)}, CLASSES, seed=0)


@pytest.fixture(scope="module")
def representations() -> list[Representation]:
    # Level 0 is noise a thousand times larger than the informative level 1.
    return [
        Representation(
            "trained",
            [1000 * signal(TRAIN, 0, 0), signal(TRAIN, 1, 3)],
            {"test": [1000 * signal(TEST, 2, 0), signal(TEST, 3, 3)]},
        ),
        Representation(
            "untrained",
            [signal(TRAIN, 4, 0), signal(TRAIN, 5, 0)],
            {"test": [signal(TEST, 6, 0), signal(TEST, 7, 0)]},
        ),
        Representation("pixels", [signal(TRAIN, 8, 0.7)], {"test": [signal(TEST, 9, 0.7)]}),
    ]


def check(scores: dict) -> None:
    assert scores["trained"] > 0.8
    assert scores["untrained"] < 0.4
    assert scores["untrained"] < scores["pixels"] < scores["trained"]
    noise, informative = scores["levels"]
    assert (noise["level"], informative["level"]) == (0, 1)
    assert noise["trained"] < 0.4 < 0.9 < informative["trained"]
    assert "pixels" not in noise


def test_linear_probe_scores_each_level_and_none_dominates_the_concatenation(representations, task):
    scores = probe_scores(representations, task, [0, 1])["test"]
    check(scores)
    assert set(scores["l2"]) == {
        "trained",
        "trained_level_0",
        "trained_level_1",
        "untrained",
        "untrained_level_0",
        "untrained_level_1",
        "pixels",
    }


def test_knn_scores_each_level_and_none_dominates_the_concatenation(representations, task):
    scores = knn_scores(representations, task, [0, 1], [1, 5, 20], 20)["test"]
    check(scores)
    assert scores["k"] == 20
    assert list(scores["by_k"]) == ["1", "5", "20"]
    assert scores["by_k"]["20"] == {key: value for key, value in scores.items() if key not in ("k", "by_k")}
    assert scores["by_k"]["1"]["trained"] != scores["by_k"]["20"]["trained"]


def test_only_requested_levels_are_reported(representations, task):
    scores = knn_scores(representations, task, [1], [5], 5)["test"]
    assert [entry["level"] for entry in scores["levels"]] == [1]
    # `trained` still uses all levels together.
    everything = knn_scores(representations, task, [0, 1], [5], 5)["test"]
    assert scores["trained"] == everything["trained"]


def test_scores_of_a_split_do_not_depend_on_the_others(representations, task):
    """Scoring a second split does not change the scores of the first; its scores equal those of scoring it alone."""
    more = signal(60, 20, 3), labels(60)
    both = [
        Representation(r.name, r.train, {**r.read, "validation": [more[0]] * len(r.train)}) for r in representations
    ]
    alone = [Representation(r.name, r.train, {"validation": r.read["validation"]}) for r in both]
    read = {**task.read_labels, "validation": more[1]}
    together = Task(task.train_labels, read, CLASSES, seed=0)
    single = Task(task.train_labels, {"validation": more[1]}, CLASSES, seed=0)
    for score in (probe_scores, lambda r, t, levels: knn_scores(r, t, levels, [1, 5], 5)):
        found = score(both, together, [0, 1])
        assert found["test"] == score(representations, task, [0, 1])["test"]
        assert found["validation"] == score(alone, single, [0, 1])["validation"]


def test_one_level_is_all_levels(task):
    single = Representation("trained", [signal(TRAIN, 1, 2)], {"test": [signal(TEST, 3, 2)]})
    for found in (probe_scores([single], task, [0]), knn_scores([single], task, [0], [5], 5)):
        scores = found["test"]
        assert scores["levels"] == [{"level": 0, "trained": scores["trained"]}]


def test_concatenated_levels_are_scaled_to_equal_length():
    levels = [torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1000.0, 0.0]])]
    torch.testing.assert_close(side_by_side(levels), torch.tensor([[0.6, 0.8, 0.0, 1.0, 0.0]]))


def test_chance_and_majority():
    task = Task(torch.tensor([0, 1, 1, 1, 2]), {"test": torch.tensor([1, 1, 0, 2])}, 4, seed=0)
    assert task.chance == 0.25
    assert task.majority("test") == 0.5
