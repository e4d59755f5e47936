"""Attention rollout: which input patches reach the features of each level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.config.grid import plane
from hjepa.models import VisionTransformer
from hjepa.visualization.figures.attention import central_cell, mark_cell
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.heat import heat, strength
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.style import Picture, Theme
from hjepa.visualization.rollout import rollout

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.models import Encoder
    from hjepa.visualization.shown import Shown

ROWS = 6
# Columns get too narrow with more.
_MOST_DEPTHS = 4
_TITLE = "Attention rollout"


def rollout_figure(shown: Shown, trained: Encoder, untrained: Encoder) -> Figure | Omitted:
    """Rollout up to the depth of every level, for one patch and over all patches, trained and untrained.

    Args:
        shown: the pictures; the first six are drawn.
        trained, untrained: the encoders.
    """
    if not isinstance(trained, VisionTransformer) or not isinstance(untrained, VisionTransformer):
        return Omitted("rollout", _TITLE, "This encoder is not a vision transformer, so it has no attention weights.")
    shown = shown.head(ROWS)
    grid = plane(trained.geometry.grid)
    query = central_cell(grid)
    depths = spread(trained.depths, _MOST_DEPTHS)
    with torch.inference_mode():
        ours = [after.cpu() for after in rollout(trained.attention(shown.normalised))]
        control = rollout(untrained.attention(shown.normalised))[depths[-1] - 1].cpu()
    columns = [_Column(f"block {d}", ours[d - 1][:, query], True) for d in depths]
    columns += [
        _Column("trained", ours[depths[-1] - 1].mean(dim=1), False),
        _Column("untrained", control.mean(dim=1), False),
    ]
    figure = _RolloutFigure(shown.pictures, shown.names, columns, grid, query)
    return Figure(
        name="rollout",
        title=_TITLE,
        caption=(
            f"{shown.what.capitalize()}, and attention multiplied through the blocks (rollout, arXiv:2005.00928; half of every "
            "step is the token itself). For the outlined patch: which input patches its features come from after "
            f"{'block' if len(depths) == 1 else 'blocks'} {', '.join(map(str, depths))}. On the right, the mean over all "
            f"patches after block {depths[-1]}, for the trained and the untrained encoder. Scales as for attention: the "
            f"maximum is in multiples of an even spread over {math.prod(grid)} patches; the patch itself does not count for it, its "
            f"own share is given in per cent. {shown.images.display_note()}"
        ).strip(),
        look_for=(
            "regions that grow with depth and follow the object. Rollout ignores the MLPs and the sizes of values, so it "
            "shows where information may come from, not how much of it is used."
        ),
        alt=(
            f"{len(shown)} pictures, each beside rollout maps of one patch after {len(depths)} depth(s), and maps over all "
            "patches for the trained and the untrained encoder."
        ),
        draw=figure.draw,
    )


def spread(items: tuple[int, ...], most: int) -> list[int]:
    """At most ``most`` items, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


@dataclass(frozen=True)
class _Column:
    """Maps [n, cells] of one column."""

    title: str
    maps: Tensor
    of_one_patch: bool


@dataclass(frozen=True)
class _RolloutFigure:
    pictures: list[Picture]
    names: list[str]
    columns: list[_Column]
    grid: tuple[int, int]
    query: int

    def draw(self, theme: Theme) -> MatplotlibFigure:
        height, width = self.pictures[0].shape[:2]
        single = sum(column.of_one_patch for column in self.columns)
        canvas = PictureGrid(
            len(self.pictures), 1 + len(self.columns), height / width, theme, top=0.42, below=0.17,
            groups=(1, 1 + single),
        )  # fmt: skip
        canvas.title(0, "image")
        for number, column in enumerate(self.columns, start=1):
            first = "one patch, after" if column.of_one_patch else "all patches,"
            canvas.title(number, f"{first}\n{column.title}", fit=True)
        for row, (picture, name) in enumerate(zip(self.pictures, self.names, strict=True)):
            canvas.show(row, 0, picture)
            mark_cell(canvas, row, 0, self.query, self.grid)
            if name:
                canvas.label(row, 0, name, color=theme.muted)
            for number, column in enumerate(self.columns, start=1):
                own = self.query if column.of_one_patch else None
                canvas.show(row, number, heat(picture, column.maps[row], self.grid, own))
                canvas.label(row, number, strength(column.maps[row], own), color=theme.muted)
                if column.of_one_patch:
                    mark_cell(canvas, row, number, self.query, self.grid)
        return canvas.figure
