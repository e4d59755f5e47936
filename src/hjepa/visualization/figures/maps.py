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
    from hjepa.visualization.split_images import ImageSource

_SHOWN = 6


def maps_figure(
    images: ImageSource,
    tokens: TokenFeatures,
    geometry: Geometry,
    shares: list[float | None],
    *,
    averaged: bool = True,
) -> Figure:
    """Feature maps of the trained and the untrained encoder.

    Args:
        images: the source of the first images, to convert them for display.
        tokens: cell features; the first six images are drawn.
        geometry: sizes of the model.
        shares: per level, the share of the variance of trained features that position alone explains, 0 to 1.
        averaged: whether the encoder is a target encoder, the moving average of the trained one.
    """
    pictures = images.pictures(tokens.images[:_SHOWN])
    levels = range(len(geometry.levels))
    trained = [pca_rgb(tokens.trained[level], geometry.level_grid(level), len(pictures)) for level in levels]
    untrained = [pca_rgb(tokens.untrained[level], geometry.level_grid(level), len(pictures)) for level in levels]
    known = [f"{share:.0%} at level {level}" for level, share in enumerate(shares) if share is not None]
    position = (
        f" Share of the variance of the trained features that position alone explains: {', '.join(known)}."
        if known
        else ""
    )
    figure = _MapFigure(pictures, trained, untrained, geometry)
    return Figure(
        name="maps",
        title="Feature maps per level",
        caption=(
            f"The first three principal components of the {'target ' if averaged else ''}encoder's cell features as red, green and blue, fitted "
            f"per level and encoder over all cells of {len(tokens.images)} images: equal colours in one column mean similar "
            f"features.{position} {images.display_note()}"
        ).strip(),
        look_for=(
            "colours that follow objects and their parts. A gradient that is the same in every image encodes position; maps "
            "that look like the untrained ones show no learning. Coarser levels should form larger groups than finer ones."
        ),
        alt=(
            f"{len(pictures)} images, each beside false-colour maps of its features at {len(geometry.levels)} level(s), "
            "for the trained and for the untrained encoder."
        ),
        draw=figure.draw,
    )


def pca_rgb(tokens: Tensor, grid: Grid, count: int) -> list[Picture]:
    """Show cell features as colours, by their first three principal components.

    Args:
        tokens: [B, cells, D]; the projection is fitted to all of them.
        grid: rows and columns of the level.
        count: number of images to show.

    Returns:
        the first `count` images as uint8 [rows, columns, 3]; a component without variance is grey.

    Raises:
        UserError: the grid does not have two axes, as for signals and clips.
    """
    flat = tokens.flatten(0, 1)
    components = min(3, *flat.shape)
    projected = PCA.fit(flat, components).transform(flat)
    # Scale each component to the full range; cut off 1% at both ends, so that outliers do not reduce the contrast.
    low = torch.quantile(projected, 0.01, dim=0)
    high = torch.quantile(projected, 0.99, dim=0)
    spread = high - low
    # Constant features leave only rounding noise, which must not be shown as a pattern.
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
