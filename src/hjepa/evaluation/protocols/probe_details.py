"""What a linear probe gets wrong: calibration, the confusion matrix and scores of every class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.evaluation.protocols.protocol import Block
from hjepa.evaluation.protocols.wording import decimals, percent, scored_rows
from hjepa.metrics import ProbeResult, calibration, class_scores, confusion_matrix, fit_temperature, frequent_confusions
from hjepa.metrics.calibration import BINS

if TYPE_CHECKING:
    from hjepa.evaluation.scores import Representation, Task
    from hjepa.evaluation.subject import Subject

LARGEST_MATRIX = 100
"""Classes up to which the whole confusion matrix is stored."""
_CONFUSIONS = 50
_PRINTED = 5


def details(subject: Subject, task: Task, split: str) -> dict[str, Any]:
    """Calibration of every probe, and the mistakes of the trained model's, on one split of ``subject.read``."""
    labels = task.read_labels[split]
    found: dict[str, Any] = {}
    for r in subject.representations:
        found[r.name] = _calibrated(subject.probe(r.name), _features(r, split), labels)
    trained = subject.representation("trained")
    assert trained is not None
    predicted = subject.probe("trained").classifier.predict(_features(trained, split))
    matrix = confusion_matrix(labels, predicted, task.num_classes)
    names = subject.train.class_names or [str(number) for number in range(task.num_classes)]
    names = [*names, *(str(number) for number in range(len(names), task.num_classes))]
    confusion: dict[str, Any] = {"classes": list(names)}
    if task.num_classes <= LARGEST_MATRIX:
        confusion["matrix"] = matrix.tolist()
    confusion["most_frequent"] = [
        {"true": names[true], "predicted": names[guess], "images": count}
        for true, guess, count in frequent_confusions(matrix, _CONFUSIONS)
    ]
    return {
        "calibration": {"bins": BINS, **found},
        "confusion": confusion,
        "per_class": [
            {
                "class": name,
                "precision": scores.precision,
                "recall": scores.recall,
                "f1": scores.f1,
                "support": scores.support,
            }
            for name, scores in zip(names, class_scores(matrix), strict=True)
        ],
    }


def _features(representation: Representation, split: str) -> Tensor:
    return torch.cat(representation.together[1][split], dim=1)


def _calibrated(probe: ProbeResult, features: Tensor, labels: Tensor) -> dict[str, Any]:
    """Calibration as fitted, and with the temperature that suits the held-out training images."""
    logits = probe.classifier.logits(features)
    temperature = fit_temperature(probe.held_out_logits, probe.held_out_labels)
    before, after = calibration(logits, labels), calibration(logits / temperature, labels)
    return {
        "ece": before.ece,
        "nll": before.nll if math.isfinite(before.nll) else None,
        "confidence": before.confidence,
        "accuracy": before.accuracy,
        "temperature": temperature,
        "ece_scaled": after.ece,
        "nll_scaled": after.nll if math.isfinite(after.nll) else None,
    }


def blocks(part: dict[str, Any], results: dict[str, Any]) -> list[Block]:
    """Calibration of every probe, the classes with the lowest F1, and the most frequent confusions."""
    if "calibration" not in part:  # written by an earlier version
        return []
    keys = ("confidence", "accuracy", "ece", "ece_scaled")
    rows = [
        [label, *(percent(value[key]) for key in keys), decimals(value["temperature"], 2)]
        for label, (value,) in scored_rows([{**part["calibration"], "levels": []}], results)
    ]
    header = ["features", "confidence", "accuracy", "ECE", "ECE, scaled", "temperature"]
    found = [
        Block(f"calibration of the linear probe in per cent (ECE: {part['calibration']['bins']} bins)", header, rows)
    ]
    worst = sorted((c for c in part["per_class"] if c["support"]), key=lambda c: c["f1"])
    classes = [
        [c["class"], percent(c["precision"]), percent(c["recall"]), percent(c["f1"]), str(c["support"])]
        for c in worst[:_PRINTED]
    ]
    title = f"classes with the lowest F1, linear probe, in per cent ({len(classes)} of {len(worst)})"
    frequent = part["confusion"]["most_frequent"][:_PRINTED]
    notes = [f"most frequent confusions: {', '.join(_confusion(entry) for entry in frequent)}"] if frequent else []
    found.append(Block(title, ["class", "precision", "recall", "F1", "images"], classes, notes))
    return found


def _confusion(entry: dict[str, Any]) -> str:
    return f"{entry['true']} as {entry['predicted']} ({entry['images']})"
