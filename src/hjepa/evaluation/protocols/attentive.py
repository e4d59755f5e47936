"""The attentive probe of the trained model, the untrained one and raw patches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.evaluation.features import encode
from hjepa.evaluation.protocols.protocol import Block, Protocol
from hjepa.evaluation.protocols.wording import percent, scored_rows
from hjepa.evaluation.sample import draw_train
from hjepa.evaluation.tokens import Tokens, keep_tokens, patches
from hjepa.metrics import accuracy
from hjepa.metrics.attentive import EPOCHS, QUERIES, AttentiveProbe, attentive_probe
from hjepa.models import distinct_levels
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.evaluation.scores import Task
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

TRAIN_IMAGES = 4000
"""Training images at most: the probe passes over them several times."""
TOKEN_BYTES = 2**30
"""Memory for the tokens of the training images of one encoder."""


def run(subject: Subject) -> dict[str, Any] | str:
    """Train attentive probes on all levels together and on each level, and read the split once."""
    task = subject.task
    if isinstance(task, str):
        return task
    if int(torch.bincount(task.train_labels).max()) < 2:
        return "no class with two training images"
    sources = _sources(subject)
    rows = _train_rows(subject, sources)
    log.info("evaluation: attentive probe on %d training images", len(rows))
    found: dict[str, Any] = {"levels": [{"level": level} for level in subject.levels]}
    decays: dict[str, float] = {}
    probes: dict[str, dict[str, tuple[list[int], AttentiveProbe]]] = {}
    pieces = sum(1 + len(_alone(subject, name, 2)) for name in sources)
    with WorkProgress("evaluation: attentive probe", pieces, "sets of tokens", console=subject.console) as progress:
        for name, read in sources.items():
            tokens, kept = keep_tokens(subject.train, rows, read, subject.view)
            probes[name] = _fit(subject, task, name, tokens, kept, decays, progress)
            del tokens
    accuracies = _read(subject, task, sources, probes)
    for name, scores in accuracies.items():
        found[name] = scores["all"]
        for entry in found["levels"] if name != "pixels" else ():
            entry[name] = scores.get(f"level {entry['level']}", scores["all"])
    return found | {
        "weight_decay": decays,
        "train_images": len(rows),
        "queries": QUERIES,
        "epochs": EPOCHS,
        "protocol": (
            f"Learned queries ({QUERIES} per level) attend to the frozen cell features of {len(rows)} training images, "
            "each reads a slice of one value projection, then a linear layer; AdamW, cosine schedule, "
            f"{EPOCHS} epochs, weight decay chosen on a stratified tenth of these images, trained again on all of them. "
            "`pixels`: the same on the pixels of every patch."
        ),
    }


def _sources(subject: Subject) -> dict[str, Tokens]:
    """What is probed: every encoder, and the pixels of patches."""
    found: dict[str, Tokens] = {name: encoder.levels for name, encoder in subject.encoders().items()}
    if "pixels" in subject.readings.controls:
        patch = subject.encoder.geometry.patch
        found["pixels"] = patches((patch[0], patch[1]))
    return found


def _train_rows(subject: Subject, sources: Mapping[str, Tokens]) -> Tensor:
    """Training images, balanced over classes: as many as are allowed and fit into memory, from `train_rows`."""
    geometry = subject.encoder.geometry
    with torch.inference_mode():
        blank = torch.zeros(1, subject.run.channels, *geometry.image_size, device=subject.device)
        size = max(sum(2 * tokens.numel() for tokens in read(blank)) for read in sources.values())
    count = min(TRAIN_IMAGES, max(10, TOKEN_BYTES // size), len(subject.train_rows))
    if count == len(subject.train_rows):
        return subject.train_rows
    train = subject.train
    drawn = draw_train(train.labels, len(train), count, subject.seed, train.division.withheld)
    return drawn[torch.isin(drawn, subject.train_rows)]


def _alone(subject: Subject, name: str, count: int) -> tuple[int, ...]:
    """Levels that are probed alone; none if there is one only, which is all levels."""
    several = name != "pixels" and count > 1 and subject.encoder.num_levels > 1
    return subject.levels if several else ()


def _fit(
    subject: Subject,
    task: Task,
    name: str,
    tokens: Sequence[Tensor],
    rows: Tensor,
    decays: dict[str, float],
    progress: WorkProgress,
) -> dict[str, tuple[list[int], AttentiveProbe]]:
    """Probes of one source, by ``all`` or the level, with the levels that they read."""
    assert subject.train.labels is not None
    labels = subject.train.labels[rows]
    together = [0] if name == "pixels" else list(distinct_levels(subject.encoder.geometry))
    wanted = {"all": together} | {f"level {n}": [n] for n in _alone(subject, name, len(tokens))}
    found = {}
    for key, chosen in wanted.items():
        result = attentive_probe(
            [tokens[n] for n in chosen],
            labels,
            num_classes=task.num_classes,
            seed=subject.seed,
            device=subject.device,
        )
        decays[name if key == "all" else f"{name}_level_{chosen[0]}"] = result.weight_decay
        found[key] = (chosen, result.probe)
        progress.advance(note=f"{name}, {key}")
    return found


def _read(
    subject: Subject,
    task: Task,
    sources: Mapping[str, Tokens],
    probes: Mapping[str, Mapping[str, tuple[list[int], AttentiveProbe]]],
) -> dict[str, dict[str, float]]:
    """Accuracies on the split that is read, in one pass over it: no tokens are kept."""

    def logits(images: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, read in sources.items():
            tokens = read(images)
            for key, (chosen, probe) in probes[name].items():
                found[f"{name}/{key}"] = probe([tokens[n] for n in chosen])
        return found

    dataset = subject.read[subject.split]
    rows = subject.rows[subject.split]
    with WorkProgress("evaluation: attentive probe read", len(rows), "images", console=subject.console) as progress:
        found, _ = encode(dataset, rows, [logits], subject.view, progress)
    labels = task.read_labels[subject.split]
    scores: dict[str, dict[str, float]] = {name: {} for name in sources}
    for key, values in found.items():
        name, _, which = key.partition("/")
        scores[name][which] = accuracy(values.argmax(dim=1), labels)
    return scores


def blocks(part: dict[str, Any], results: dict[str, Any]) -> list[Block]:
    """The attentive probe beside the linear probe."""
    columns = {"attentive probe": part}
    if "trained" in results.get("linear_probe", {}):
        columns["linear probe"] = results["linear_probe"]
    rows = [
        [label, *(percent(value) for value in values)] for label, values in scored_rows(list(columns.values()), results)
    ]
    note = (
        f"attentive probe: {part['train_images']} training images; linear probe: {results['train_images']}"
        if part["train_images"] != results["train_images"] and len(columns) > 1
        else ""
    )
    title = f"attentive probe: accuracy on {results['split']} in per cent"
    return [Block(title, ["features", *columns], rows, [note] if note else [])]


ATTENTIVE = Protocol(
    name="attentive",
    label="attentive probe",
    about="accuracy of a classifier that learns to which cells to attend, on frozen cell features",
    run=run,
    blocks=blocks,
)
