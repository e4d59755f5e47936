"""Few labels: N-way K-shot episodes, and the linear probe on a few labels per class or a share of all labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hjepa.evaluation.protocols.protocol import Block, Protocol
from hjepa.evaluation.protocols.wording import percent, scored_rows
from hjepa.evaluation.scores import for_each
from hjepa.metrics import centred_unit, draw_episodes, episode_accuracy, interval, linear_probe
from hjepa.runtime.random import Purpose, stream
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.evaluation.scores import Task
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

WAYS = 5
SHOTS = (1, 5)
QUERIES = 15
EPISODES = 600
PER_CLASS = (1, 5, 10, 20)
SHARES = (0.01, 0.1)
REPEATS = 5
ONE_LABEL_L2 = 0.1
"""Strength of the probe if a class has one label, so that none can be held out to choose it."""


def run(subject: Subject) -> dict[str, Any] | str:
    """Score episodes on the images of the split that is read, and probes on a few training labels."""
    if isinstance(subject.task, str):
        return subject.task
    log.info("evaluation: few-shot episodes")
    shots = {str(k): _episodes(subject, subject.task, k) for k in SHOTS}
    log.info("evaluation: linear probe on few labels")
    return {
        "ways": WAYS,
        "queries": QUERIES,
        "episodes": EPISODES,
        "shots": shots,
        "repeats": REPEATS,
        "labels": _budgets(subject, subject.task),
        "protocol": (
            f"{WAYS}-way episodes of {subject.split} images: nearest class centroid on features centred with the mean "
            f"of the training images and L2-normalised per level, {QUERIES} queries per class, mean of {EPISODES} "
            "episodes and its 95 % interval. Few labels: the linear probe fitted on randomly drawn labelled training "
            f"images, mean of {REPEATS} draws and its 95 % interval (Student's t); L2 chosen on a stratified tenth of "
            f"these labels, {ONE_LABEL_L2:g} with one label per class."
        ),
    }


def _episodes(subject: Subject, task: Task, shots: int) -> dict[str, Any]:
    """Scores of one number of shots, or why there are none."""
    labels = task.read_labels[subject.split]
    counts = torch.bincount(labels)
    enough = int((counts >= shots + QUERIES).sum())
    if enough < WAYS:
        return {"skipped": f"{enough} classes with {shots + QUERIES} images; {WAYS} are needed"}
    generator = stream(Purpose.EPISODES, subject.seed, shots)
    drawn = draw_episodes(labels, ways=WAYS, shots=shots, queries=QUERIES, episodes=EPISODES, generator=generator)

    def score(_name: str, train: list[Tensor], read: dict[str, list[Tensor]]) -> dict[str, Any]:
        features = torch.cat(
            [centred_unit(f, t.mean(dim=0)) for f, t in zip(read[subject.split], train, strict=True)], dim=1
        )
        return _summary(episode_accuracy(features, drawn))

    return for_each(subject.representations, subject.levels, score)


def _budgets(subject: Subject, task: Task) -> list[dict[str, Any]]:
    """Scores for every number of labels."""
    budgets: list[tuple[str, int | float]] = [(f"{k} per class", k) for k in PER_CLASS]
    budgets += [(f"{share:.0%} of labels", share) for share in SHARES]
    found: list[dict[str, Any]] = []
    with WorkProgress("evaluation: few labels", len(budgets), "numbers of labels", console=subject.console) as progress:
        for name, amount in budgets:
            draws = _draws(task.train_labels, amount, subject.seed)
            if isinstance(draws, str):
                found.append({"name": name, "skipped": draws})
            else:
                found.append({"name": name, "labels": len(draws[0]), **_budget(subject, task, draws)})
            progress.advance(note=name)
    return found


def _budget(subject: Subject, task: Task, draws: Sequence[Tensor]) -> dict[str, Any]:
    truth = task.read_labels[subject.split]

    def score(_name: str, train: list[Tensor], read: dict[str, list[Tensor]]) -> dict[str, Any]:
        fit, test = torch.cat(train, dim=1), torch.cat(read[subject.split], dim=1)
        found = []
        for rows in draws:
            labels = task.train_labels[rows]
            single = int(torch.bincount(labels).max()) < 2
            strengths = {"l2_values": (ONE_LABEL_L2,)} if single else {}
            result = linear_probe(
                fit[rows.to(fit.device)],
                labels,
                test,
                truth,
                num_classes=task.num_classes,
                seed=task.seed,
                **strengths,  # type: ignore[arg-type]
            )
            found.append(result.accuracy)
        return _summary(torch.tensor(found, dtype=torch.float64))

    return for_each(subject.representations, subject.levels, score)


def _draws(labels: Tensor, amount: float, seed: int) -> list[Tensor] | str:
    """Rows of the labelled images of every repeat, or why there are none.

    Args:
        labels: int64 [N].
        amount: images per class if it is an int; otherwise the share of every class, rounded up.
        seed: of the evaluation.
    """
    values = labels.numpy()
    classes, counts = np.unique(values, return_counts=True)
    wanted = [amount if isinstance(amount, int) else int(np.ceil(amount * count - 1e-9)) for count in counts]
    if any(w > count for w, count in zip(wanted, counts, strict=True)):
        return f"a class has only {counts.min()} training images"
    draws = []
    for repeat in range(REPEATS):
        generator = stream(Purpose.FEW_LABELS, seed, repeat)
        rows = [
            generator.permutation(np.flatnonzero(values == label))[:w] for label, w in zip(classes, wanted, strict=True)
        ]
        draws.append(torch.from_numpy(np.sort(np.concatenate(rows))))
    return draws


def _summary(values: Tensor) -> dict[str, Any]:
    mean, half = interval(values)
    return {"mean": mean, "interval": half}


def blocks(part: dict[str, Any], results: dict[str, Any]) -> list[Block]:
    """One column per number of shots and one per number of labels."""
    shots = {f"{part['ways']}-way {k}-shot": scores for k, scores in part["shots"].items()}
    budgets = {entry["name"]: entry for entry in part["labels"]}
    found = []
    for title, columns in (
        (f"few-shot: accuracy in per cent, mean of {part['episodes']} episodes and 95 % interval", shots),
        (f"few labels: linear probe, accuracy in per cent, mean of {part['repeats']} draws and 95 % interval", budgets),
    ):
        scored = {name: scores for name, scores in columns.items() if "skipped" not in scores}
        skipped = [f"{name} skipped: {s['skipped']}" for name, s in columns.items() if "skipped" in s]
        rows = [
            [label, *(_cell(value) for value in values)]
            for label, values in scored_rows(list(scored.values()), results)
        ]
        found.append(Block(title, ["features", *scored], rows if scored else [], skipped))
    return found


def _cell(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    return percent(value["mean"]) + ("" if value["interval"] is None else f" ± {100 * value['interval']:.1f}")


FEW_SHOT = Protocol(
    name="few_shot",
    label="few-shot",
    about="accuracy with few labels: 5-way episodes, and the linear probe on 1 to 20 labels per class, 1 % and 10 %",
    run=run,
    blocks=blocks,
)
