"""Near copies and outliers in a set of images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hjepa.data.image_sample import pixel_hash
from hjepa.embeddings.embed import view_of
from hjepa.embeddings.pictures import Tile, picture_rows, short, thumbnail
from hjepa.embeddings.search import Neighbours, neighbours
from hjepa.embeddings.searched import Searched, searched
from hjepa.embeddings.threshold import Threshold, choose_threshold, measure_copies
from hjepa.errors import DataError, UserError
from hjepa.runtime.outputs import check_outputs, write_bytes, write_csv, write_json
from hjepa.zoo import load_encoder

if TYPE_CHECKING:
    from hjepa.runs.load import TrainedRun

log = logging.getLogger("hjepa")

OUTPUTS = (".json", ".csv", ".png")
NEIGHBOURS = 10
"""Nearest neighbours of an image that are looked at."""
OUTLIER = 3.0
"""Robust standard deviations of log distance above the median from which an image counts as an outlier."""
CROWDED = 0.2
"""Share of images with a near copy above which the threshold is in doubt."""
_GROUPS_SHOWN, _ACROSS = 10, 6


def duplicates(
    source: str | Path,
    data: str | Path,
    *,
    threshold: float | None = None,
    outliers: int = 20,
    level: int | str | None = None,
    output: Sequence[str | Path] = (),
    device: str = "auto",
    batch_size: int | None = None,
    force: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    console: bool = False,
) -> dict[str, Any]:
    """Find groups of near copies, and the images that are unlike all others.

    Images are compared by cosine similarity of their embeddings, in blocks. Two images belong to a group if their
    similarity reaches the threshold, or if others connect them. Images of a group whose pixels are equal are told
    apart from those that are merely similar. Outliers are ranked by distance, 1 - mean similarity to the 10 nearest
    neighbours; an image that has copies is never one.

    Args:
        source: run folder, checkpoint, packed folder or name of a shipped model.
        data: a file of ``hjepa embed`` made with the same model, or images as for `hjepa.embeddings.embed`.
        threshold: cosine similarity of near copies, up to 1; by default chosen by
            `hjepa.embeddings.threshold.choose_threshold`.
        outliers: number of outliers to list.
        level: a level, ``last`` or ``all``; by default all, or that of the file.
        output: files to write: ``.json`` (the result), ``.csv`` (a table), ``.png`` (the pictures).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<n>`` or ``mps``.
        batch_size: images per forward pass; at least 64 by default.
        force: overwrite outputs.
        overrides: ``["data.key=value", ...]`` or a mapping, for keys that find and read images.
        console: draw progress bars where standard output is a terminal.

    Returns:
        ``groups``, largest first, each with its ``images`` (``path``, ``label``, ``similarity`` to the nearest other
        of the group, ``same_pixels_as``: an earlier one of equal pixels, or None); ``outliers`` (``rank``, ``path``,
        ``label``, ``distance``, ``score``, ``unusual``); ``threshold``; ``pixels_compared``: whether the images could be
        read; ``doubt``: a warning, or None; ``protocol``.

    Raises:
        UserError: fewer than three images, an output exists, a threshold out of range, or the file is of another model.
    """
    outputs = [Path(path) for path in output]
    for path in outputs:
        check_outputs([path], OUTPUTS, force=force)
    if threshold is not None and not -1 <= threshold <= 1:
        raise UserError(f"--threshold: {threshold:g} is no cosine similarity; use a number up to 1, such as 0.95")
    run = load_encoder(source, device=device)
    with searched(run, source, data, level=level, batch_size=batch_size, overrides=overrides, console=console) as found:
        if len(found.embeddings) < 3:
            raise DataError(f"{data}: {len(found.embeddings)} image(s); give at least 3")
        near = neighbours(found.embeddings, NEIGHBOURS, run.device, console=console)
        limit = choose_threshold(near.second, _copies(run, found), given=threshold)
        result = _result(source, found, near, limit, outliers)
        for path in outputs:
            if path.suffix == ".json":
                write_json(path, result)
            elif path.suffix == ".csv":
                _write_table(path, result)
            else:
                write_bytes(path, _draw(found, result))
    return result


def _copies(run: TrainedRun, found: Searched) -> Mapping[str, Any]:
    if found.images is None:
        log.warning("pixels are not compared, and no copies are made to choose a threshold: %s", found.missing)
        return {}
    return measure_copies(run.encoder, found.encoding, found.images, view_of(run, found.images))


def _result(source: str | Path, found: Searched, near: Neighbours, limit: Threshold, outliers: int) -> dict[str, Any]:
    groups = near.groups(limit.value)
    grouped = sum(len(rows) for rows in groups)
    exact = sum(len(rows) - 1 for rows in near.groups(1 - 1e-6))
    images = len(found.embeddings)
    doubt = None
    if grouped - exact > CROWDED * images:
        doubt = (
            f"{grouped / images:.0%} of the images have a near copy: either the set repeats itself, or these features hardly "
            "differ between images; look at some groups, and raise --threshold if they are not copies"
        )
    return {
        "images": images,
        "groups": [_group(found, near, rows) for rows in groups],
        "images_in_groups": grouped,
        "outliers": _outliers(found, near, {row for rows in groups for row in rows}, outliers),
        "threshold": limit.as_dict(),
        "pixels_compared": found.images is not None,
        "doubt": doubt,
        "protocol": {
            "model": str(source),
            "similarity": "cosine, mean over levels",
            "neighbours": near.rows.shape[1],
            "grouping": "connected by similarities of the nearest neighbours at or above the threshold",
            "outliers": "1 - mean similarity to the nearest neighbours; score in robust standard deviations of its logarithm",
            "unusual_from_score": OUTLIER,
            **found.encoding.as_dict(),
            "searched": found.embeddings.about.images,
        },
    }


def _group(found: Searched, near: Neighbours, rows: Sequence[int]) -> dict[str, Any]:
    members = []
    first: dict[bytes, str] = {}
    for row in rows:
        path = found.embeddings.paths[row]
        same = None
        digest = _digest(found, row)
        if digest is not None:
            same = first.setdefault(digest, path)
            same = None if same == path else same
        members.append(
            {
                "path": path,
                "label": found.embeddings.label(row),
                "similarity": float(near.closest[row]),
                "same_pixels_as": same,
            }
        )
    return {"images": members}


def _digest(found: Searched, row: int) -> bytes | None:
    if found.images is None:
        return None
    try:
        return pixel_hash(found.images.read(found.number(row)))
    except DataError:
        return None


def _outliers(found: Searched, near: Neighbours, grouped: set[int], count: int) -> list[dict[str, Any]]:
    distance = near.distance.astype(np.float64)
    logs = np.log(np.maximum(distance, 1e-9))
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    scores = (logs - np.median(logs)) / max(spread, 1e-9)
    order = [row for row in np.argsort(-distance, kind="stable").tolist() if row not in grouped][:count]
    return [
        {
            "rank": rank,
            "path": found.embeddings.paths[row],
            "label": found.embeddings.label(row),
            "distance": float(distance[row]),
            "score": float(scores[row]),
            "unusual": bool(scores[row] >= OUTLIER),
        }
        for rank, row in enumerate(order, start=1)
    ]


def _write_table(path: Path, result: dict[str, Any]) -> None:
    header = ("kind", "group", "path", "label", "similarity", "same_pixels_as", "distance", "score")
    rows: list[tuple[object, ...]] = [
        (
            "copy",
            number,
            image["path"],
            image["label"] or "",
            f"{image['similarity']:.6f}",
            image["same_pixels_as"] or "",
            "",
            "",
        )
        for number, group in enumerate(result["groups"], start=1)
        for image in group["images"]
    ]
    rows += [
        ("outlier", "", one["path"], one["label"] or "", "", "", f"{one['distance']:.6f}", f"{one['score']:.2f}")
        for one in result["outliers"]
    ]
    write_csv(path, header, rows)


def _draw(found: Searched, result: dict[str, Any]) -> bytes:
    if found.images is None:
        raise DataError(f"--output: the pictures cannot be drawn, because {found.missing}; give the images instead")
    lines = []
    for group in result["groups"][:_GROUPS_SHOWN]:
        shown = group["images"][:_ACROSS]
        lines.append([_tile(found, image["path"], _note(image)) for image in shown])
    odd = result["outliers"]
    for start in range(0, min(len(odd), 2 * _ACROSS), _ACROSS):
        lines.append(
            [
                _tile(found, one["path"], f"outlier {one['rank']}: {short(one['path'])}", strong=one["unusual"])
                for one in odd[start : start + _ACROSS]
            ]
        )
    return picture_rows(lines, [(2, "near copies, a group per row; below them, outliers")])


def _note(image: dict[str, Any]) -> str:
    how = "same pixels" if image["same_pixels_as"] else f"{image['similarity']:.4f}"
    return f"{short(image['path'])}  {how}"


def _tile(found: Searched, path: str, text: str, *, strong: bool = False) -> Tile:
    assert found.images is not None
    try:
        picture = thumbnail(found.images.read(found.rows[path]))
    except DataError:
        picture = None
    return Tile(picture, text, strong)
