"""Grids of pictures: images with their neighbours, groups of copies, outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hjepa.data.images.decode import unit_scale
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.style import LIGHT, Picture, to_png

_SIDE = 128
_LONGEST = 26


@dataclass(frozen=True)
class Tile:
    """A picture of a grid.

    Attributes:
        picture: uint8 [H, W, 3]; None for one that cannot be read.
        text: what stands below it.
        strong: whether it is printed bold, with a frame.
    """

    picture: Picture | None
    text: str
    strong: bool = False


def thumbnail(image: Tensor) -> Picture:
    """The largest centred square of an image [C, h, w], at most 128 pixels a side, as uint8 [side, side, 3].

    One channel is shown grey; of more than three, the first three are shown.
    """
    channels, height, width = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[:3, top : top + side, left : left + side].float() * unit_scale(image.dtype)
    if side > _SIDE:
        square = torch.nn.functional.interpolate(square[None], size=(_SIDE, _SIDE), mode="bilinear", antialias=True)[0]
    square = square[:1].expand(3, -1, -1) if channels < 3 else square
    picture: Picture = (square.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return picture


def picture_rows(
    rows: Sequence[Sequence[Tile]], titles: Sequence[tuple[int, str]], *, first_apart: bool = False
) -> bytes:
    """A PNG with rows of pictures.

    Args:
        rows: at least one; shorter ones are filled with nothing.
        titles: columns with their titles.
        first_apart: separate the first column from the others.
    """
    columns = max(len(row) for row in rows)
    grid = PictureGrid(len(rows), max(columns, 4), 1.0, LIGHT, top=0.3, below=0.17, groups=(1,) if first_apart else ())
    for column, title in titles:
        grid.title(column, title, strong=True)
    blank = np.full((2, 2, 3), 230, dtype=np.uint8)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            grid.show(number, column, blank if tile.picture is None else tile.picture)
            grid.label(number, column, tile.text, color=LIGHT.text if tile.strong else LIGHT.muted, strong=tile.strong)
            if tile.strong:
                grid.frame(number, column, LIGHT.same)
    return to_png(grid.figure)


def short(path: str) -> str:
    """The end of a path, as far as it fits below a picture."""
    name = path.rsplit("/", 1)[-1]
    return name if len(name) <= _LONGEST else "…" + name[-_LONGEST + 1 :]
