"""Label-free measures of the features, by the module that watches them during training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hjepa.evaluation.protocols.protocol import Block, Protocol
from hjepa.evaluation.protocols.wording import decimals
from hjepa.evaluation.results import without_nan
from hjepa.evaluation.scores import side_by_side
from hjepa.health.measures import Measuring
from hjepa.metrics import alignment, cka_matrix, linear_cka, mean_cosine, rankme, uniformity
from hjepa.models import distinct_levels

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

IMAGES = 2000
_NAMES = ("std", "dead", "rank", "cosine", "lidar", "position", "alignment", "uniformity")


def run(subject: Subject) -> dict[str, Any] | str:
    """Measure the features of every level on images of the split that is read, trained beside untrained."""
    rows = _evenly(subject.rows[subject.split])
    if len(rows) < 2:
        return "a single image"
    log.info("evaluation: feature quality on %d images", len(rows))
    encoders = subject.encoders()
    kept = {name: Measuring() for name in encoders}
    loader = subject.view.batches(subject.read[subject.split], rows)
    with torch.inference_mode():
        for batch in loader:
            for name, encoder in encoders.items():
                kept[name].add(encoder.levels(batch.images))
    geometry = subject.encoder.geometry
    count = len(geometry.levels)
    found: dict[str, Any] = {"images": len(kept["trained"].pooled(0))}
    for name, measuring in kept.items():
        found[name] = {
            "levels": [_level(measuring, level) for level in subject.levels],
            "together": _together([measuring.pooled(level) for level in distinct_levels(geometry)]),
            "cka": without_nan(cka_matrix([measuring.pooled(level) for level in range(count)])),
        }
    if "untrained" in kept:
        similar = [linear_cka(kept["trained"].pooled(n), kept["untrained"].pooled(n)) for n in range(count)]
        found["cka_with_untrained"] = without_nan(torch.tensor(similar, dtype=torch.float64))
    return found


def _level(measuring: Measuring, level: int) -> dict[str, Any]:
    record = measuring.measures()[level].record(level)
    pooled, parts = measuring.pooled(level), measuring.parts(level)
    values: dict[str, Any] = {name.partition("/")[0]: value for name, value in record.items()}
    values["uniformity"] = uniformity(pooled)
    if parts is not None:
        half = parts.shape[1] // 2
        values["alignment"] = alignment(parts[:, :half].mean(dim=1), parts[:, half:].mean(dim=1))
    return {"level": level, **{name: values.get(name) for name in _NAMES}}


def _together(pooled: list[Tensor]) -> dict[str, Any]:
    features = side_by_side(pooled)
    return {"rank": rankme(features), "cosine": mean_cosine(features), "uniformity": uniformity(features)}


def _evenly(rows: Tensor) -> Tensor:
    """At most `IMAGES` rows, spread evenly, since data sets are often sorted by class."""
    if len(rows) <= IMAGES:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, IMAGES).round().long()]


def blocks(part: dict[str, Any], results: dict[str, Any]) -> list[Block]:
    """One row per level of the trained and the untrained model."""
    rows = []
    for name in (n for n in ("trained", "untrained") if n in part):
        together = part[name]["together"]
        rows.append([f"{name}, all levels", *_cells(together)])
        rows += [[f"{name}, level {entry['level']}", *_cells(entry)] for entry in part[name]["levels"]]
    title = f"feature quality on {part['images']} {results['split']} images"
    return [Block(title, ["features", *(n if n != "std" else "spread" for n in _NAMES)], rows)]


def _cells(entry: dict[str, Any]) -> list[str]:
    return [decimals(entry.get(name), 1 if name in ("rank", "lidar") else 3) for name in _NAMES]


QUALITY = Protocol(
    name="quality",
    label="feature quality",
    about="label-free measures: spread, RankMe, cosine, LiDAR, position share, alignment, uniformity and CKA",
    run=run,
    blocks=blocks,
)
