"""Boxes of objects from patch features."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hjepa.data.dense import build_dense
from hjepa.evaluation.dense.average_precision import check_pycocotools
from hjepa.evaluation.dense.detection import detection
from hjepa.evaluation.protocols.protocol import Block, Protocol, percent

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

_FIGURES = {"ap": "AP", "ap50": "AP at 0.5", "ap75": "AP at 0.75", "recall": "recall"}


def run(subject: Subject) -> dict[str, Any]:
    """Train and score a detector on the images that ``evaluation.detection`` names."""
    check_pycocotools()
    settings = subject.config.evaluation.detection
    dense = build_dense(
        settings.dataset,
        settings.data_path,
        "boxes",
        image_size=subject.encoder.geometry.height_width,
        channels=subject.run.channels,
        train_images=settings.train_images,
        test_images=settings.test_images,
        seed=subject.seed,
    )
    if settings.dataset == "shape_scenes":
        log.info("detection: %s; for COCO set evaluation.detection.dataset=coco", dense.description)
    return detection(
        subject.encoders(),
        dense,
        subject.split,
        settings=settings,
        view=subject.view,
        seed=subject.seed,
        console=subject.console,
    )


def blocks(part: dict[str, Any], _results: dict[str, Any]) -> list[Block]:
    """COCO's figures of every encoder."""
    names = [name for name in ("trained", "untrained") if name in part["ap"]]
    title = (
        f"detection: COCO figures in per cent on {part['images']} {part['split']} images of {part['description']}, "
        f"encoder {part['encoder'].replace('_', '-')}"
    )
    rows = [[name, *(percent(part[key][name]) for key in _FIGURES)] for name in names]
    return [Block(title, ["encoder", *_FIGURES.values()], rows)]


DETECTION = Protocol(
    name="detection",
    label="detection",
    about="boxes of objects by a detector on patch features (needs pycocotools)",
    run=run,
    in_all=False,
    blocks=blocks,
)
