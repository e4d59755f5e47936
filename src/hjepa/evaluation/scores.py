"""Linear probe and k-NN of every representation in the table, under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics import accuracy, knn_predict, linear_probe


@dataclass(frozen=True)
class Representation:
    """One kind of features of both splits.

    Attributes:
        name: ``trained``, ``untrained``, ``pixels`` or ``pca``.
        train: ``[N, D]`` per level; controls without levels have one.
        test: ``[M, D]`` per level.
        distinct: levels that count when all are put together; the others repeat one of them.
    """

    name: str
    train: list[Tensor]
    test: list[Tensor]
    distinct: tuple[int, ...] | None = None

    @property
    def together(self) -> tuple[list[Tensor], list[Tensor]]:
        """The levels that say different things, of both splits."""
        chosen = range(len(self.train)) if self.distinct is None else self.distinct
        return [self.train[i] for i in chosen], [self.test[i] for i in chosen]


@dataclass(frozen=True)
class Task:
    """The classification that features are read by.

    Attributes:
        train_labels: int64 ``[N]``.
        test_labels: int64 ``[M]``.
        num_classes: number of classes.
        seed: of the split of train on which the probe's regulariser is chosen.
    """

    train_labels: Tensor
    test_labels: Tensor
    num_classes: int
    seed: int

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.num_classes

    @property
    def majority(self) -> float:
        """Accuracy on test of always saying the most frequent training class."""
        guess = torch.bincount(self.train_labels).argmax()
        return float((self.test_labels == guess).double().mean())


def side_by_side(levels: Sequence[Tensor]) -> Tensor:
    """Levels concatenated with each row of each level at length one, so that none drowns the others: ``[N, L * D]``."""
    return torch.cat([F.normalize(level, dim=1) for level in levels], dim=1)


def probe_scores(representations: Sequence[Representation], task: Task, levels: Sequence[int]) -> dict[str, Any]:
    """The ``linear_probe`` part of the results: test accuracies, and under ``l2`` the strengths chosen."""
    strengths: dict[str, Any] = {}

    def score(name: str, train: list[Tensor], test: list[Tensor]) -> float:
        # The probe standardises every dimension itself, so plain concatenation treats levels alike.
        result = linear_probe(
            torch.cat(train, dim=1),
            task.train_labels,
            torch.cat(test, dim=1),
            task.test_labels,
            num_classes=task.num_classes,
            seed=task.seed,
        )
        strengths[name] = result.l2
        return result.accuracy

    return {**_scores(representations, levels, score), "l2": strengths}


def knn_scores(
    representations: Sequence[Representation], task: Task, levels: Sequence[int], k_values: Sequence[int], main_k: int
) -> dict[str, Any]:
    """The ``knn`` part of the results: test accuracies at ``main_k``, and for every k under ``by_k``."""
    found: dict[str, dict[int, float]] = {}

    def score(name: str, train: list[Tensor], test: list[Tensor]) -> float:
        predictions = knn_predict(
            side_by_side(train),
            task.train_labels,
            side_by_side(test),
            k=k_values,
            num_classes=task.num_classes,
        )
        found[name] = {k: accuracy(predicted, task.test_labels) for k, predicted in predictions.items()}
        return found[name][main_k]

    main = _scores(representations, levels, score)
    by_k = {
        str(k): _scores(representations, levels, lambda name, _train, _test, k=k: found[name][k])  # type: ignore[misc]
        for k in k_values
    }
    return {"k": main_k, **main, "by_k": by_k}


def _scores(
    representations: Sequence[Representation],
    levels: Sequence[int],
    score: Callable[[str, list[Tensor], list[Tensor]], float],
) -> dict[str, Any]:
    """All levels together under the representation's name, and each one alone under ``levels``."""
    together: dict[str, float] = {}
    alone: dict[int, dict[str, float]] = {level: {} for level in levels}
    for r in representations:
        together[r.name] = score(r.name, *r.together)
        if r.name not in ("trained", "untrained"):
            continue
        for level in levels:
            # One level is all levels: the same number, and no need to compute it twice.
            single = len(r.train) == 1
            alone[level][r.name] = (
                together[r.name] if single else score(f"{r.name}_level_{level}", [r.train[level]], [r.test[level]])
            )
    return {**together, "levels": [{"level": level, **values} for level, values in alone.items()]}
