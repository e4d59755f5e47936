"""A class per pixel from frozen patch features."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hjepa.data.dense import build_dense
from hjepa.evaluation.dense.maps import EncoderMaps, MapReader, PixelMaps
from hjepa.evaluation.dense.segmentation import segmentation
from hjepa.evaluation.protocols.protocol import Block, Protocol, percent

if TYPE_CHECKING:
    from hjepa.evaluation.subject import Subject

log = logging.getLogger("hjepa")

_LABELS = {"trained": "trained", "untrained": "untrained", "pixels": "raw pixels"}


def run(subject: Subject) -> dict[str, Any]:
    """Fit and score segmentation heads on the images that ``evaluation.segmentation`` names."""
    settings, geometry = subject.config.evaluation.segmentation, subject.encoder.geometry
    dense = build_dense(
        settings.dataset,
        settings.data_path,
        "dense",
        image_size=geometry.height_width,
        channels=subject.run.channels,
        train_images=settings.train_images,
        test_images=settings.test_images,
        seed=subject.seed,
    )
    if settings.dataset == "shape_scenes":
        log.info(
            "segmentation: %s; for images with masks of your own set evaluation.segmentation.dataset", dense.description
        )
    readers: dict[str, MapReader] = {name: EncoderMaps(encoder) for name, encoder in subject.encoders().items()}
    if "pixels" in subject.readings.controls:
        readers["pixels"] = PixelMaps(geometry.patch, geometry.grid)
    return segmentation(
        readers,
        dense,
        subject.split,
        settings=settings,
        view=subject.view,
        seed=subject.seed,
        console=subject.console,
    )


def blocks(part: dict[str, Any], _results: dict[str, Any]) -> list[Block]:
    """Mean IoU of both heads, and of the linear head per level."""
    names = [name for name in _LABELS if name in part["decoder"]]
    rows = [
        [f"{head} head, all levels", *(percent(part[head].get(name)) for name in names)]
        for head in ("linear", "decoder")
    ]
    rows += [
        [f"linear head, level {entry['level']}", *(percent(entry.get(name)) for name in names)]
        for entry in part["linear"]["levels"]
    ]
    title = (
        f"segmentation: mean IoU in per cent on {part['images']} {part['split']} images of {part['description']}, "
        f"{part['classes']} classes"
    )
    return [Block(title, ["head", *(_LABELS[name] for name in names)], rows)]


SEGMENTATION = Protocol(
    name="segmentation",
    label="segmentation",
    about="a class per pixel from frozen patch features",
    run=run,
    in_all=False,
    blocks=blocks,
)
