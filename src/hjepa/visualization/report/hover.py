"""The map of the embedding that shows the picture under the pointer: its data and a sheet of thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hjepa.visualization.figures.embedding import colouring

if TYPE_CHECKING:
    from hjepa.visualization.features import Gallery
    from hjepa.visualization.figures.embedding import Layout
    from hjepa.visualization.split_images import ImageSource

# Coordinates are whole numbers from 0 to this.
EXTENT = 1000
_COLUMNS = 40
# The sheet may take this many bytes of the report; it is compressed more if it is larger.
_LARGEST_SHEET = 1_200_000
_QUALITIES = (85, 70, 50, 30)
_LONGEST_NAME = 32


@dataclass(frozen=True)
class HoverMap:
    """Contents of the interactive map.

    Attributes:
        sheet: thumbnails in rows of 40, as a data URI.
        data: plain values for ``hover.js``: ``tile`` (width and height), ``columns``, ``sheet`` (width and height),
            ``layouts`` (name, and x and y from 0 to 1000 per image), ``groups`` (name and colour, null for grey), ``group``
            (per image), ``names`` (per image).
    """

    sheet: str
    data: dict[str, Any]


def hover_map(images: ImageSource, gallery: Gallery, found: Sequence[Layout]) -> HoverMap | None:
    """The map of a gallery; None if it has no thumbnails or no layout.

    Args:
        images: the source of the gallery.
        gallery: with thumbnails.
        found: where its images are.
    """
    if gallery.thumbnails is None or not found:
        return None
    tiles = gallery.thumbnails.numpy()
    sheet = contact_sheet(tiles)
    colours = colouring(gallery.labels, images)
    group = np.zeros(len(gallery), dtype=int)
    groups: list[dict[str, Any]] = [{"name": "", "colour": 0}]
    if colours is not None:
        groups = [{"name": name, "colour": index} for name, _, index in colours.groups]
        for number, (_, members, _) in enumerate(colours.groups):
            group[members] = number
    rows = gallery.rows.tolist()
    # t-SNE first, as neighbourhoods are what one looks at with the pointer.
    ordered = sorted(found, key=lambda layout: "PCA" in layout.name)
    data = {
        "tile": [tiles.shape[2], tiles.shape[1]],
        "columns": min(_COLUMNS, len(tiles)),
        "sheet": [sheet.shape[1], sheet.shape[0]],
        "layouts": [{"name": layout.name, "points": _whole(layout.points)} for layout in ordered],
        "groups": groups,
        "group": group.tolist(),
        "classes": [images.class_name(images.label_of(row)) for row in rows],
        "names": [_short(str(images.dataset.identifiers[row])) for row in rows],
    }
    return HoverMap(_jpeg(sheet), data)


def contact_sheet(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Thumbnails [N, h, w, 3] in rows of up to 40, [H, W, 3]; unused places are black."""
    count, height, width, _ = tiles.shape
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width, 3), dtype=np.uint8)
    full[:count] = tiles
    return full.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4).reshape(rows * height, -1, 3)


def _whole(points: NDArray[np.float32]) -> list[list[int]]:
    """Scale to 0..1000, the same for both axes, centred, with y upwards."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    centred = (points - (low + high) / 2) / span + 0.5
    centred[:, 1] = 1 - centred[:, 1]
    placed: list[list[int]] = (centred * EXTENT).round().astype(int).tolist()
    return placed


def _short(name: str) -> str:
    """An identifier, or the end of a long one."""
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def _jpeg(sheet: NDArray[np.uint8]) -> str:
    from PIL import Image

    image, found = Image.fromarray(sheet), b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        found = buffer.getvalue()
        if len(found) <= _LARGEST_SHEET:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(found).decode('ascii')}"
