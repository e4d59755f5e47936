"""Linear probe and k-NN of every representation in the table, under the same conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.metrics import ProbeResult, accuracy, knn_predict, linear_probe
from hjepa.runtime.work_progress import WorkProgress


@dataclass(frozen=True)
class Representation:
    """Features of one kind, for the training images and every split that is read.

    Attributes:
        name: ``trained``, ``untrained``, ``pixels`` or ``pca``.
        train: [N, D] per level; controls without levels have one.
        read: by split, [M, D] per level.
        distinct: levels to use for all levels together; the others have the same features as one of them.
    """

    name: str
    train: list[Tensor]
    read: dict[str, list[Tensor]]
    distinct: tuple[int, ...] | None = None

    @property
    def together(self) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """The distinct levels of the training images and of every split."""
        chosen = range(len(self.train)) if self.distinct is None else self.distinct
        return [self.train[i] for i in chosen], {
            split: [levels[i] for i in chosen] for split, levels in self.read.items()
        }

    def alone(self, level: int) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """One level, in the form of `together`."""
        return [self.train[level]], {split: [levels[level]] for split, levels in self.read.items()}


@dataclass(frozen=True)
class Task:
    """The classification task that features are scored on.

    Attributes:
        train_labels: int64 [N].
        read_labels: by split, int64 [M].
        num_classes: number of classes.
        seed: seed of the split of train on which the probe's regularisation is chosen.
    """

    train_labels: Tensor
    read_labels: dict[str, Tensor]
    num_classes: int
    seed: int

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.num_classes

    def majority(self, split: str) -> float:
        """Accuracy on a split of always predicting the most frequent training class."""
        guess = torch.bincount(self.train_labels).argmax()
        return float((self.read_labels[split] == guess).double().mean())


def for_each(
    representations: Sequence[Representation],
    levels: Sequence[int],
    score: Callable[[str, list[Tensor], dict[str, list[Tensor]]], Any],
) -> dict[str, Any]:
    """Score every representation: all levels together under its name, each one alone under ``levels``.

    Args:
        representations: features.
        levels: levels to score alone, of the trained and the untrained model.
        score: from a name that is different for each, and the features of `Representation.together`, to a JSON value.
    """
    found: dict[str, Any] = {}
    alone: list[dict[str, Any]] = [{"level": level} for level in levels]
    for r in representations:
        found[r.name] = score(r.name, *r.together)
        if r.name not in ("trained", "untrained"):
            continue
        for entry in alone:
            level = entry["level"]
            # With a single level, both are the same.
            single = len(r.train) == 1
            entry[r.name] = found[r.name] if single else score(f"{r.name}_level_{level}", *r.alone(level))
    return found | {"levels": alone}


Scores = dict[str, dict[str, Any]]
"""Part of the results, by split."""


def side_by_side(levels: Sequence[Tensor]) -> Tensor:
    """Concatenate levels, each L2-normalised per row so that none dominates: [N, L * D]."""
    return torch.cat([F.normalize(level, dim=1) for level in levels], dim=1)


def by_requested(scores: Scores, split: str) -> dict[str, Any]:
    """Scores of the requested split, with those of validation images under ``validation`` if test was requested."""
    return scores[split] | ({"validation": scores["validation"]} if split == "test" and "validation" in scores else {})


def fit_probe(train: list[Tensor], read: dict[str, list[Tensor]], task: Task) -> ProbeResult:
    """Fit a linear probe on concatenated levels and score it on the first split of ``read``.

    Args:
        train: [N, D] per level.
        read: by split, [M, D] per level.
        task: the labels.

    Raises:
        ValueError: as `hjepa.metrics.linear_probe`.
    """
    # The probe standardises every dimension itself, so plain concatenation treats levels alike.
    first = next(iter(read))
    return linear_probe(
        torch.cat(train, dim=1),
        task.train_labels,
        torch.cat(read[first], dim=1),
        task.read_labels[first],
        num_classes=task.num_classes,
        seed=task.seed,
    )


def probe_scores(
    representations: Sequence[Representation],
    task: Task,
    levels: Sequence[int],
    *,
    console: bool = False,
    fitted: dict[str, ProbeResult] | None = None,
) -> Scores:
    """The ``linear_probe`` part of the results: accuracies, and under ``l2`` the strengths chosen.

    Every probe is fitted once and reads all splits.

    Args:
        representations: features.
        task: labels.
        levels: levels to score alone.
        console: show progress on standard output.
        fitted: receives the probes, by the representation's name, with ``_level_<n>`` for one level; those that it has
            already are used.
    """
    probes = {} if fitted is None else fitted
    strengths: dict[str, Any] = {}

    def score(name: str, train: list[Tensor], read: dict[str, list[Tensor]]) -> dict[str, float]:
        if name not in probes:
            probes[name] = fit_probe(train, read, task)
        result = probes[name]
        strengths[name] = result.l2
        return {
            split: result.accuracy
            if split == next(iter(read))
            else accuracy(result.classifier.predict(torch.cat(found, dim=1)), task.read_labels[split])
            for split, found in read.items()
        }

    with _progress("evaluation: linear probe", representations, levels, console) as progress:
        found = _scores(representations, levels, _told(score, progress))
    return {split: {**scores, "l2": strengths} for split, scores in found.items()}


def knn_scores(
    representations: Sequence[Representation],
    task: Task,
    levels: Sequence[int],
    k_values: Sequence[int],
    main_k: int,
    *,
    console: bool = False,
) -> Scores:
    """The ``knn`` part of the results: accuracies at ``main_k``, and for every k under ``by_k``.

    `console`: show progress on standard output.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}

    def score(name: str, train: list[Tensor], read: dict[str, list[Tensor]]) -> dict[str, float]:
        references = side_by_side(train)
        found[name] = {k: {} for k in k_values}
        for split, features in read.items():
            predictions = knn_predict(
                references, task.train_labels, side_by_side(features), k=k_values, num_classes=task.num_classes
            )
            for k, predicted in predictions.items():
                found[name][k][split] = accuracy(predicted, task.read_labels[split])
        return found[name][main_k]

    with _progress("evaluation: k-NN", representations, levels, console) as progress:
        main = _scores(representations, levels, _told(score, progress))
    by_k = {k: _scores(representations, levels, lambda name, _train, _read, k=k: found[name][k]) for k in k_values}  # type: ignore[misc]
    return {
        split: {"k": main_k, **scores, "by_k": {str(k): by_k[k][split] for k in k_values}}
        for split, scores in main.items()
    }


_Score = Callable[[str, list[Tensor], dict[str, list[Tensor]]], dict[str, float]]


def _progress(
    title: str, representations: Sequence[Representation], levels: Sequence[int], console: bool
) -> WorkProgress:
    """Counts the calls that `_scores` makes."""
    alone = [r for r in representations if r.name in ("trained", "untrained") and len(r.train) > 1]
    return WorkProgress(title, len(representations) + len(alone) * len(levels), "sets of features", console=console)


def _told(score: _Score, progress: WorkProgress) -> _Score:
    """The same, and progress hears which features have been read."""

    def scored(name: str, train: list[Tensor], read: dict[str, list[Tensor]]) -> dict[str, float]:
        result = score(name, train, read)
        progress.advance(note=name.replace("_", " "))
        return result

    return scored


def _scores(representations: Sequence[Representation], levels: Sequence[int], score: _Score) -> Scores:
    """By split: all levels together under the representation's name, and each one alone under ``levels``."""
    together: dict[str, dict[str, float]] = {}
    alone: dict[int, dict[str, dict[str, float]]] = {level: {} for level in levels}
    for r in representations:
        together[r.name] = score(r.name, *r.together)
        if r.name not in ("trained", "untrained"):
            continue
        for level in levels:
            # With a single level, both numbers are the same.
            single = len(r.train) == 1
            alone[level][r.name] = together[r.name] if single else score(f"{r.name}_level_{level}", *r.alone(level))
    return {
        split: {
            **{name: values[split] for name, values in together.items()},
            "levels": [
                {"level": level, **{name: values[split] for name, values in found.items()}}
                for level, found in alone.items()
            ],
        }
        for split in representations[0].read
    }
