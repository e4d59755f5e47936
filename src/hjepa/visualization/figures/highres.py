"""PCA-RGB maps at high resolution: the encoder applied to larger inputs, with positions in between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hjepa.config.grid import by, plane
from hjepa.models import VisionTransformer
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.maps import pca_rgb
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.rollout import spread
from hjepa.visualization.figures.style import Picture, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.config import Geometry
    from hjepa.models import Encoder
    from hjepa.visualization.shown import Shown

ROWS = 4
_LARGEST_FACTOR = 4
# Attention costs the square of the number of tokens: about a second per picture and encoder of this size on two cores.
_MOST_TOKENS = 2304
_MOST_LEVELS = 4
_TITLE = "Feature maps at high resolution"


def highres_figure(shown: Shown, encoder: Encoder) -> Figure | Omitted:
    """Feature maps of enlarged inputs, beside one at the trained size.

    Args:
        shown: the pictures; the first four are drawn.
        encoder: the trained encoder.
    """
    if not isinstance(encoder, VisionTransformer):
        return Omitted("highres", _TITLE, "This encoder is not a vision transformer, so its input size is fixed.")
    geometry = encoder.geometry
    levels = spread(tuple(i for i, level in enumerate(geometry.levels) if level.stride != 0), _MOST_LEVELS)
    factor = enlargement(geometry)
    if factor == 1 or not levels:
        reason = f"A larger input than {by(geometry.image_size)} would have more than {_MOST_TOKENS} tokens."
        return Omitted("highres", _TITLE, reason)
    large = encoder.at_size(tuple(factor * side for side in geometry.image_size))
    rows = shown.rows[:ROWS]
    inputs, rows = shown.images.normalised(rows, plane(large.image_size))
    with torch.inference_mode():
        features = [[level.cpu() for level in large.levels(image[None])] for image in inputs]
        usual = [level.float().cpu() for level in encoder.levels(shown.images.normalised(rows)[0])]
    maps = [
        pca_rgb(torch.cat([found[level].float() for found in features]), large.geometry.level_grid(level), len(rows))
        for level in levels
    ]
    control = pca_rgb(usual[levels[-1]], geometry.level_grid(levels[-1]), len(rows))
    figure = _HighresFigure(shown.images.pictures(inputs), control, maps, levels)
    fine = large.geometry.level_grid(levels[0])
    return Figure(
        name="highres",
        title=_TITLE,
        caption=(
            f"{shown.what.capitalize()}, enlarged {factor} times to {by(large.image_size)} pixels, so that the encoder gives "
            f"{by(fine)} cells at level {levels[0]} instead of {by(geometry.level_grid(levels[0]))}. Positions lie between those of "
            "training. Colours are the first three principal components per level, fitted to the pictures shown. For "
            f"comparison, level {levels[-1]} at the trained size, with colours of its own. {shown.images.display_note()}"
        ).strip(),
        look_for=(
            "borders of objects and parts that are sharper than at the trained size. The encoder has not seen enlarged "
            "pictures in training, so stripes or a colour gradient that is the same in all pictures come from positions "
            "that it does not know."
        ),
        alt=f"{len(rows)} pictures, each beside false-colour maps of its features at {len(levels)} level(s), {factor} times finer.",
        draw=figure.draw,
    )


def enlargement(geometry: Geometry) -> int:
    """By how much inputs are enlarged: up to 4 times per axis, and up to 2,304 tokens."""
    side = math.isqrt(_MOST_TOKENS // geometry.num_tokens)
    return max(1, min(_LARGEST_FACTOR, side))


@dataclass(frozen=True)
class _HighresFigure:
    pictures: list[Picture]
    usual: list[Picture]
    maps: list[list[Picture]]
    levels: list[int]

    def draw(self, theme: Theme) -> MatplotlibFigure:
        height, width = self.pictures[0].shape[:2]
        grid = PictureGrid(
            len(self.pictures), 2 + len(self.maps), height / width, theme, top=0.42, groups=(1, 1 + len(self.maps))
        )
        grid.title(0, "image")
        last = 1 + len(self.maps)
        grid.title(last, f"trained size\nlevel {self.levels[-1]}", color=theme.levels[self.levels[-1]], fit=True)
        for number, level in enumerate(self.levels, start=1):
            grid.title(number, f"enlarged\nlevel {level}", color=theme.levels[level], fit=True)
        for row, picture in enumerate(self.pictures):
            grid.show(row, 0, picture)
            grid.show(row, last, self.usual[row], squares=True)
            for number, maps in enumerate(self.maps, start=1):
                grid.show(row, number, maps[row], squares=True)
        return grid.figure
