"""The nearest real patches of one predicted region per picture, with their surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.config.grid import plane
from hjepa.visualization.figures.cells import cell_box, seen_part
from hjepa.visualization.figures.figure import Figure
from hjepa.visualization.figures.picture_grid import Edge, PictureGrid
from hjepa.visualization.figures.rollout import spread
from hjepa.visualization.figures.style import Picture, Theme
from hjepa.visualization.predictions import nearest_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.config import Geometry
    from hjepa.visualization.predictions import Bank, Predicted
    from hjepa.visualization.shown import Shown

ROWS = 4
_MOST_LEVELS = 4
# Neighbours per level by number of levels, so that patches stay large enough.
_NEIGHBOURS = {1: 6, 2: 4, 3: 3, 4: 2}
# Cells around a patch that are shown with it.
_AROUND = 2


def patches_figure(shown: Shown, predicted: Predicted, bank: Bank, geometry: Geometry) -> Figure:
    """For the most hidden cell of each picture, the nearest patches of other images by prediction and by truth.

    Args:
        shown: the pictures; the first four are drawn.
        predicted: predictions for them.
        bank: target features of other images.
        geometry: sizes of the model.
    """
    shown = shown.head(ROWS)
    levels = spread(tuple(range(len(geometry.levels))), _MOST_LEVELS)
    k = min(_NEIGHBOURS[len(levels)], bank.cells[levels[-1]][..., 0].numel())
    pictures, others = shown.pictures, shown.images.pictures(bank.images)
    rows: list[_Row] = []
    for i, picture in enumerate(pictures):
        places = [most_hidden(predicted, geometry, level, i) for level in levels]
        found = []
        for which in (predicted.predictions, [predicted.truths(level) for level in range(len(geometry.levels))]):
            tiles: list[_Tile] = []
            for level, place in zip(levels, places, strict=True):
                near = nearest_cells(which[level][i, place][None], bank.cells[level], k)[0].tolist()
                for image, cell in (divmod(n, bank.cells[level].shape[1]) for n in near):
                    tiles.append(_surroundings(others[image], geometry, level, cell))
            found.append(tiles)
        cell = int(predicted.index[levels[0]][i, places[0]])
        rows.append(
            _Row(
                _Tile(seen_part(picture, predicted.context[i], geometry), _box_edges(geometry, levels[0], cell)),
                _surroundings(picture, geometry, levels[0], cell),
                found[0],
                found[1],
            )
        )
    figure = _PatchesFigure(rows, levels, k)
    return Figure(
        name="patches",
        title="Nearest patches of a predicted region",
        caption=(
            f"{shown.what.capitalize()} as the context encoder sees them. For the outlined cell, the one farthest from everything "
            f"visible: the {k} most similar of the cells of {len(bank)} other images per level, outlined in their "
            "surroundings. Upper row of each pair: most similar to the prediction. Lower row: the true content of the region, and "
            f"the cells most similar to its true features. {shown.images.display_note()}"
        ).strip(),
        look_for=(
            "upper rows that show the kind of thing that the lower rows show. The same patches for every picture mean that the "
            "predictor knows the position only; patches that agree in colour but not in kind, that it knows the background."
        ),
        alt=f"{len(rows)} pairs of rows: a partly hidden picture with its {k} nearest patches at {len(levels)} level(s), by prediction and by truth.",
        draw=figure.draw,
    )


def most_hidden(predicted: Predicted, geometry: Geometry, level: int, image: int) -> int:
    """Which of a picture's predicted cells is farthest from every visible token."""
    middles = _middles(plane(geometry.level_grid(level)))[predicted.index[level][image]]
    seen = _middles(plane(geometry.grid))[predicted.context[image]]
    return int(torch.cdist(middles, seen).amin(dim=1).argmax())


def _middles(grid: tuple[int, int]) -> Tensor:
    """Middles of the cells as shares of height and width, [cells, 2]."""
    rows, columns = ((torch.arange(n) + 0.5) / n for n in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


@dataclass(frozen=True)
class _Tile:
    picture: Picture
    outline: list[Edge]


def _box_edges(geometry: Geometry, level: int, cell: int, window: tuple[slice, slice] | None = None) -> list[Edge]:
    """The sides of a cell as shares of a window of the picture, or of the whole."""
    height, width = geometry.height_width
    rows, columns = cell_box(geometry, level, cell)
    view = window or (slice(0, height), slice(0, width))
    top, bottom = ((y - view[0].start) / (view[0].stop - view[0].start) for y in (rows.start, rows.stop))
    left, right = ((x - view[1].start) / (view[1].stop - view[1].start) for x in (columns.start, columns.stop))
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return list(zip(corners, corners[1:] + corners[:1], strict=True))


def _surroundings(picture: Picture, geometry: Geometry, level: int, cell: int) -> _Tile:
    """A cell with the cells around it, in a window of the picture's shape that does not leave the picture."""
    view = []
    for box, side in zip(cell_box(geometry, level, cell), geometry.height_width, strict=True):
        length = min(side, (1 + 2 * _AROUND) * (box.stop - box.start))
        start = min(max(0, (box.start + box.stop - length) // 2), side - length)
        view.append(slice(start, start + length))
    window = view[0], view[1]
    return _Tile(picture[window], _box_edges(geometry, level, cell, window))


@dataclass(frozen=True)
class _Row:
    seen: _Tile
    truth: _Tile
    by_prediction: list[_Tile]
    by_truth: list[_Tile]


@dataclass(frozen=True)
class _PatchesFigure:
    rows: list[_Row]
    levels: list[int]
    k: int

    def draw(self, theme: Theme) -> MatplotlibFigure:
        height, width = self.rows[0].seen.picture.shape[:2]
        starts = [1 + self.k * i for i in range(len(self.levels))]
        grid = PictureGrid(
            2 * len(self.rows), 1 + self.k * len(self.levels), height / width, theme, top=0.3, below=0.17, groups=starts
        )
        grid.title(0, "region", fit=True)
        for start, level in zip(starts, self.levels, strict=True):
            grid.title(start, f"level {level}", color=theme.levels[level])
        for number, row in enumerate(self.rows):
            pairs = ((row.seen, row.by_prediction, "prediction"), (row.truth, row.by_truth, "truth"))
            for half, (first, tiles, name) in enumerate(pairs):
                for column, tile in enumerate([first, *tiles]):
                    grid.show(2 * number + half, column, tile.picture)
                    grid.lines(2 * number + half, column, tile.outline, color="#000000", width=2.2)
                    grid.lines(2 * number + half, column, tile.outline, color="#ffffff", width=1.0)
                grid.label(2 * number + half, 0, name, color=theme.text, strong=not half)
        return grid.figure
