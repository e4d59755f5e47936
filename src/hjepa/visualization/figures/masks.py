"""Masks of the run's sampler, drawn on images: context and prediction targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hjepa.config.grid import per_axis, plane
from hjepa.health.evidence import levels_text, listing
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.picture_grid import Edge, PictureGrid
from hjepa.visualization.figures.style import Picture, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.config import Geometry, Grid, PerAxis
    from hjepa.masking import MaskSampler
    from hjepa.visualization.shown import Shown

_IMAGES = 4
# Number of draws by number of level groups, so that images stay large enough.
_DRAWS = {1: 5, 2: 3, 3: 2, 4: 2}
_UNSEEN = 0.2

Cells = NDArray[np.bool_]


def no_masks(method: str) -> Omitted:
    """In place of the figure, for a method that hides nothing from its encoder."""
    return Omitted("masks", "Masks", f"Method `{method}` predicts no masked regions, so there are no masks to draw.")


def masks_figure(shown: Shown, sampler: MaskSampler, geometry: Geometry) -> Figure:
    """Masks of the first training steps on a few images."""
    shown = shown.head(_IMAGES)
    pictures = shown.pictures
    # A whole-image level always predicts the same single cell; the caption says so instead of an image.
    groups = tuple(levels for levels in sampler.groups if geometry.levels[levels[0]].stride)
    whole = [levels[0] for levels in sampler.groups if not geometry.levels[levels[0]].stride]
    draws = _DRAWS[len(groups)]
    overlays = [_draw(sampler, geometry, groups, draw, len(pictures)) for draw in range(draws)]
    counts = sampler.counts
    predicted = _predicted_text(groups, counts.targets)
    if whole:
        predicted += f", and the average over the whole image at {levels_text(whole)}"
    tokens = geometry.num_tokens
    rest = tokens - counts.context - counts.hidden
    neither = f" {rest} tokens are neither context nor target." if rest > 0 else ""
    sets = sampler.config.sets_per_image
    several = f" Each image gets {sets} such draws per step; one is shown." if sets > 1 else ""
    figure = _MaskFigure(pictures, overlays, groups, geometry)
    return Figure(
        name="masks",
        title="Masks",
        caption=(
            f"{shown.what.capitalize()} under the masks of the first {draws} training steps. The context encoder "
            f"sees the {counts.context} bright tokens of {tokens} ({counts.context / tokens:.0%}); {predicted}.{neither}"
            f"{several} {shown.images.display_note()}"
        ).strip(),
        look_for=(
            "targets so large that they cannot be interpolated from their neighbours, and a context that still shows the "
            "content of the image. Over several draws, every part of the image should become a target."
        ),
        alt=(
            f"{len(pictures)} images with {draws} mask draws each: {counts.context} of {tokens} tokens bright as context, "
            "target cells tinted and outlined, the rest dark."
        ),
        draw=figure.draw,
    )


@dataclass(frozen=True)
class _Overlay:
    """Masks of one draw: context on the token grid [B, rows, columns], targets per group on its level's grid."""

    context: Cells
    targets: list[Cells]


def _draw(
    sampler: MaskSampler, geometry: Geometry, groups: tuple[tuple[int, ...], ...], step: int, count: int
) -> _Overlay:
    masks = sampler(step, count)
    targets = [_on_grid(masks.targets[levels[0]][:count].numpy(), geometry.level_grid(levels[0])) for levels in groups]
    return _Overlay(_on_grid(masks.context[:count].numpy(), geometry.grid), targets)


def _on_grid(index: NDArray[np.int64], grid: Grid) -> Cells:
    """Row-major indices [B, n] as booleans [B, rows, columns]."""
    cells = np.zeros((len(index), math.prod(plane(grid))), dtype=bool)
    np.put_along_axis(cells, index, True, axis=1)
    return cells.reshape(-1, *grid)


def _predicted_text(groups: tuple[tuple[int, ...], ...], targets: tuple[int, ...]) -> str:
    if len(groups) == 1:
        return f"{targets[0]} tinted cells are predicted at {levels_text(list(groups[0]))}"
    return "of the tinted cells " + listing(
        [f"{targets[levels[0]]} are predicted at {levels_text(list(levels))}" for levels in groups]
    )


@dataclass(frozen=True)
class _MaskFigure:
    pictures: list[Picture]
    overlays: list[_Overlay]
    groups: tuple[tuple[int, ...], ...]
    geometry: Geometry

    def draw(self, theme: Theme) -> MatplotlibFigure:
        groups = len(self.groups)
        columns = 1 + len(self.overlays) * groups
        starts = [1 + draw * groups for draw in range(len(self.overlays))] if groups > 1 else [1]
        height, width = self.geometry.height_width
        grid = PictureGrid(
            len(self.pictures), columns, height / width, theme, top=0.42 if groups > 1 else 0.28, groups=starts
        )
        grid.title(0, "image")
        for draw, overlay in enumerate(self.overlays):
            for number, levels in enumerate(self.groups):
                column = 1 + draw * groups + number
                title = f"draw {draw + 1}" if groups == 1 else f"draw {draw + 1}\n{levels_text(list(levels))}"
                grid.title(column, title, color=theme.levels[levels[0]] if groups > 1 else None)
                stride = self.geometry.levels[levels[0]].stride
                color = theme.levels[levels[0]]
                for row, picture in enumerate(self.pictures):
                    target = overlay.targets[number][row]
                    grid.show(row, column, self._painted(picture, overlay.context[row], target, stride, color))
                    grid.lines(row, column, _on_picture(outline(target), target), color=color, width=1.3)
                    if stride != 1:
                        # Faint lines between neighbouring cells distinguish coarse levels from fine ones.
                        inner = _on_picture(seams(target), target)
                        grid.lines(row, column, inner, color="#ffffff", width=0.7, alpha=0.6)
        for row, picture in enumerate(self.pictures):
            grid.show(row, 0, picture)
        return grid.figure

    def _painted(self, picture: Picture, context: Cells, target: Cells, stride: PerAxis, color: str) -> Picture:
        from matplotlib.colors import to_rgb

        patch = plane(self.geometry.patch)
        down, across = (side * step for side, step in zip(patch, per_axis(stride, 2), strict=True))
        seen = _enlarge(context, *patch)[..., None]
        wanted = _enlarge(target, down, across)[..., None]
        tint = 255 * np.array(to_rgb(color))
        pixels = np.where(seen, picture, _UNSEEN * picture)
        # Only in the level's colour, so that a target is not mistaken for context in an image of that colour.
        bright = picture.mean(axis=2, keepdims=True) / 255
        pixels = np.where(wanted, tint * (0.3 + 0.7 * bright) + 70 * bright, pixels)
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _on_picture(edges: list[tuple[tuple[int, int], tuple[int, int]]], cells: Cells) -> list[Edge]:
    """Convert edges from units of cells to shares of the picture."""
    rows, columns = cells.shape
    return [((x / columns, y / rows), (to_x / columns, to_y / rows)) for (x, y), (to_x, to_y) in edges]


def outline(cells: Cells) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The edges between cells inside and outside of a region.

    Args:
        cells: bool [rows, columns], true inside.

    Returns:
        one ((x, y), (x, y)) per edge, in units of cells, from the upper left corner.
    """
    padded = np.pad(cells, 1).astype(np.int8)
    edges = []
    for row, column in zip(*np.nonzero(np.diff(padded, axis=0)[:, 1:-1]), strict=True):
        edges.append(((int(column), int(row)), (int(column) + 1, int(row))))
    for row, column in zip(*np.nonzero(np.diff(padded, axis=1)[1:-1]), strict=True):
        edges.append(((int(column), int(row)), (int(column), int(row) + 1)))
    return edges


def seams(cells: Cells) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The edges between neighbouring cells inside a region; arguments and result as for `outline`."""
    edges = []
    for row, column in zip(*np.nonzero(cells[:-1] & cells[1:]), strict=True):
        edges.append(((int(column), int(row) + 1), (int(column) + 1, int(row) + 1)))
    for row, column in zip(*np.nonzero(cells[:, :-1] & cells[:, 1:]), strict=True):
        edges.append(((int(column) + 1, int(row)), (int(column) + 1, int(row) + 1)))
    return edges


def _enlarge(cells: Cells, height: int, width: int) -> Cells:
    return cells.repeat(height, axis=0).repeat(width, axis=1)
