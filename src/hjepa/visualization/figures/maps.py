"""PCA-RGB maps: the first three principal components of cell features as colours, level by level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hjepa.config.grid import plane
from hjepa.metrics import PCA
from hjepa.visualization.figures.figure import Figure
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.style import Picture, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.config import Geometry, Grid
    from hjepa.visualization.features import TokenFeatures
    from hjepa.visualization.split_images import SplitImages

_SHOWN = 6


def maps_figure(images: SplitImages, tokens: TokenFeatures, geometry: Geometry, shares: list[float | None]) -> Figure:
    """Maps of the trained encoder beside those of its untrained copy.

    Args:
        images: for showing pictures.
        tokens: features of cells.
        geometry: sizes of the model.
        shares: per level, how much of the trained features' variance position alone explains.
    """
    pictures = images.pictures(tokens.images[:_SHOWN])
    levels = range(len(geometry.levels))
    trained = [pca_rgb(tokens.trained[level], geometry.level_grid(level), len(pictures)) for level in levels]
    untrained = [pca_rgb(tokens.untrained[level], geometry.level_grid(level), len(pictures)) for level in levels]
    known = [f"{share:.0%} at level {level}" for level, share in enumerate(shares) if share is not None]
    position = (
        f" Position alone explains this much of the variance of the trained features: {', '.join(known)}."
        if known
        else ""
    )
    figure = _MapFigure(pictures, trained, untrained, geometry)
    return Figure(
        name="maps",
        title="Feature maps per level",
        caption=(
            f"The first three principal components of the target encoder's cell features as red, green and blue, fitted "
            f"per level and encoder over all cells of {len(tokens.images)} held-out images: equal colours in one column mean similar "
            f"features.{position} {images.display_note()}"
        ).strip(),
        look_for=(
            "colours that follow objects and their parts rather than the same gradient in every image. A gradient that "
            "does not change from image to image is the encoding of position; maps that look like the untrained ones "
            "have not been learned. Coarser levels should group more than finer ones."
        ),
        alt=(
            f"{len(pictures)} images, each beside false-colour maps of its features at {len(geometry.levels)} level(s), "
            "for the trained and for the untrained encoder."
        ),
        draw=figure.draw,
    )


def pca_rgb(tokens: Tensor, grid: Grid, count: int) -> list[Picture]:
    """Features of cells as colours.

    Args:
        tokens: [B, cells, D]; the projection is fitted to all of them.
        grid: rows and columns; `UserError` for signals and clips.
        count: how many images to colour.

    Returns:
        the first `count` images as [rows, columns, 3] uint8, grey where features do not vary.
    """
    flat = tokens.flatten(0, 1)
    components = min(3, *flat.shape)
    projected = PCA.fit(flat, components).transform(flat)
    # Each component fills the range by itself; the outermost per cent must not wash out the rest.
    low = torch.quantile(projected, 0.01, dim=0)
    high = torch.quantile(projected, 0.99, dim=0)
    spread = high - low
    # A constant feature leaves rounding noise only, which is no pattern.
    silent = spread <= 1e-5 * flat.abs().max()
    scaled = torch.where(silent, 0.5, (projected - low) / torch.where(silent, 1.0, spread)).clamp(0, 1)
    if components < 3:
        scaled = torch.cat([scaled, torch.full((len(scaled), 3 - components), 0.5)], dim=1)
    colours = (scaled * 255).round().to(torch.uint8).reshape(len(tokens), *plane(grid), 3)
    return [np.ascontiguousarray(picture.numpy()) for picture in colours[:count]]


@dataclass(frozen=True)
class _MapFigure:
    pictures: list[Picture]
    trained: list[list[Picture]]
    untrained: list[list[Picture]]
    geometry: Geometry

    def draw(self, theme: Theme) -> MatplotlibFigure:
        levels = len(self.geometry.levels)
        height, width = self.geometry.height_width
        grid = PictureGrid(len(self.pictures), 1 + 2 * levels, height / width, theme, top=0.42, groups=(1, 1 + levels))
        grid.title(0, "image")
        for row, picture in enumerate(self.pictures):
            grid.show(row, 0, picture)
        for start, who, maps in ((1, "trained", self.trained), (1 + levels, "untrained", self.untrained)):
            for level in range(levels):
                grid.title(start + level, f"{who}\nlevel {level}", color=theme.levels[level], fit=True)
                for row in range(len(self.pictures)):
                    grid.show(row, start + level, maps[level][row], squares=True)
        return grid.figure
