"""What the predictor predicts: hidden regions, filled with the nearest patches of other images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa.health.evidence import listing
from hjepa.visualization.figures.cells import cell_box, seen_part, with_cells
from hjepa.visualization.figures.figure import Figure
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.rollout import spread
from hjepa.visualization.figures.style import Picture, Theme
from hjepa.visualization.predictions import nearest_cells, own_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure
    from torch import Tensor

    from hjepa.config import Geometry
    from hjepa.visualization.predictions import Bank, Predicted
    from hjepa.visualization.shown import Shown

ROWS = 5
MOST_LEVELS = 4
TITLE = "What the predictor predicts"


def predictions_figure(
    shown: Shown, predicted: Predicted, bank: Bank, geometry: Geometry, counted: Predicted | None
) -> Figure:
    """Hidden regions filled with the patches whose target features are nearest to the prediction, and to the truth.

    Args:
        shown: the pictures; the first five are drawn.
        predicted: predictions for them.
        bank: target features of other images.
        geometry: sizes of the model.
        counted: predictions for more held-out images, on which they are counted; None if there are none.
    """
    shown = shown.head(ROWS)
    levels = spread(tuple(range(len(geometry.levels))), MOST_LEVELS)
    pictures, others = shown.pictures, shown.images.pictures(bank.images)

    def filled(features: list[Tensor], level: int) -> list[Picture]:
        """Pictures whose predicted cells are replaced by the nearest ones of the bank."""
        found = nearest_cells(features[level][: len(shown)].flatten(0, 1), bank.cells[level], 1).view(len(shown), -1)
        return [
            with_cells(
                picture, geometry, level, predicted.index[level][i], lambda n, i=i: take(others, bank, geometry, level, found[i, n])  # type: ignore[misc]
            )
            for i, picture in enumerate(pictures)
        ]  # fmt: skip

    truths = [predicted.truths(level) for level in range(len(geometry.levels))]
    figure = _PredictionsFigure(
        pictures,
        [seen_part(picture, predicted.context[i], geometry) for i, picture in enumerate(pictures)],
        [(level, filled(predicted.predictions, level), filled(truths, level)) for level in levels],
    )
    return Figure(
        name="predictions",
        title=TITLE,
        caption=(
            f"{shown.what.capitalize()}, what the context encoder sees of them, and per level the predicted cells, each "
            f"replaced by one of {bank.cells[levels[0]][..., 0].numel():,} cells of {len(bank)} other images: the one whose "
            "target features are most similar to the prediction, and the one most similar to the true features. "
            f"{shares_text(counted, levels)}{shown.images.display_note()}"
        ).strip(),
        look_for=(
            "predicted cells that continue object and background, even if they are not the same in detail. "
            "The column of the truth is the best that other images can give: where it does not resemble the image, the "
            "features do not keep what pixels look like, and the prediction cannot either."
        ),
        alt=f"{len(shown)} pictures, each beside what the encoder sees and, for {len(levels)} level(s), two fillings of its hidden cells.",
        draw=figure.draw,
    )


def shares_text(counted: Predicted | None, levels: list[int]) -> str:
    """How often predictions are about their own picture, as a sentence; empty if that was not counted."""
    if counted is None:
        return ""
    shares = [(level, own_share(counted, level)) for level in levels]
    known = [f"{share:.0%} at level {level}" for level, share in shares if share is not None]
    if not known:
        return ""
    return (
        f"On {len(counted.context)} held-out images, a prediction is more similar to the features of its own cell than to those of "
        f"the same cell of another image in {listing(known)} of cases; knowing the position only would give 50%. "
    )


def take(pictures: list[Picture], bank: Bank, geometry: Geometry, level: int, place: Tensor) -> Picture:
    """The pixels of a cell of the bank.

    Args:
        pictures: those of the bank.
        bank: for the number of cells.
        geometry: sizes of the model.
        level: of the cell.
        place: image * cells + cell.
    """
    image, cell = divmod(int(place), bank.cells[level].shape[1])
    return pictures[image][cell_box(geometry, level, cell)]


@dataclass(frozen=True)
class _PredictionsFigure:
    pictures: list[Picture]
    seen: list[Picture]
    levels: list[tuple[int, list[Picture], list[Picture]]]

    def draw(self, theme: Theme) -> MatplotlibFigure:
        height, width = self.pictures[0].shape[:2]
        starts = [2 + 2 * i for i in range(len(self.levels))]
        grid = PictureGrid(len(self.pictures), 2 + 2 * len(self.levels), height / width, theme, top=0.42, groups=starts)
        grid.title(0, "image")
        grid.title(1, "seen")
        for start, (level, _, _) in zip(starts, self.levels, strict=True):
            grid.title(start, f"level {level}\nprediction", color=theme.levels[level], fit=True)
            grid.title(start + 1, f"level {level}\ntruth", color=theme.levels[level], fit=True)
        for row, picture in enumerate(self.pictures):
            grid.show(row, 0, picture)
            grid.show(row, 1, self.seen[row])
            for start, (_, predicted, true) in zip(starts, self.levels, strict=True):
                grid.show(row, start, predicted[row])
                grid.show(row, start + 1, true[row])
        return grid.figure
