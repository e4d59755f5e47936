"""The page of the evaluation protocols that train the encoder or read other images."""

from __future__ import annotations

from typing import Any

from benchmarks.published.readings import Published
from benchmarks.published.text import points, table

FOLDER = "trained_protocols"


def fine_tuning(published: Published) -> str:
    """Accuracy after fine-tuning the whole encoder, and its last blocks."""
    found = _of(published, "fine_tune")
    rows = [
        [encoder, *(points(100 * found[part][encoder]) for part in ("full", "last_blocks"))]
        for encoder in ("trained", "untrained")
    ]
    full, last = (found[part]["changed"]["trained"] for part in ("full", "last_blocks"))
    about = (
        f"Tensors changed: {full['changed']} of {full['tensors']}, and {last['changed']} of {last['tensors']} "
        f"([file]({FOLDER}/fine_tune.json))."
    )
    header = ("encoder", "whole encoder", f"last {found['blocks']} blocks")
    return f"{table(header, rows)}\n\n{about}"


def robustness(published: Published) -> str:
    """Accuracy of the linear probe on clean and on corrupted images."""
    found = _of(published, "robustness")
    columns = ("trained", "untrained", "pixels")
    parts = {"clean": "clean", "mean of all corruptions": "mean", "lost, relative to clean": "drop"}
    rows = [[name, *(points(100 * found[key][column]) for column in columns)] for name, key in parts.items()]
    return table(("accuracy in per cent", "trained", "untrained", "raw pixels"), rows)


def segmentation(published: Published) -> str:
    """Mean IoU of both heads."""
    found = _of(published, "segmentation")
    levels = found["linear"]["levels"]
    by_level = [", ".join(points(100 * level[column]) for level in levels) for column in ("trained", "untrained")]
    rows = [
        ["linear, all levels", *_percent(found["linear"])],
        [f"linear, level {', '.join(str(level['level']) for level in levels)}", *by_level, ""],
        ["decoder, all levels", *_percent(found["decoder"])],
    ]
    return table(("head", "trained", "untrained", "raw pixels"), rows)


def detection(published: Published) -> str:
    """COCO's figures."""
    found = _of(published, "detection")
    keys = ("ap", "ap50", "ap75", "recall")
    rows = [[encoder, *(points(100 * found[key][encoder]) for key in keys)] for encoder in ("trained", "untrained")]
    return table(("encoder", "AP", "AP at 0.5", "AP at 0.75", "recall"), rows)


def _of(published: Published, name: str) -> dict[str, Any]:
    found: dict[str, Any] = published.json(f"{FOLDER}/{name}.json")[name]
    return found


def _percent(found: dict[str, Any]) -> list[str]:
    return [points(100 * found[column]) for column in ("trained", "untrained", "pixels")]
