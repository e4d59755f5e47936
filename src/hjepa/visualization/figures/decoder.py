"""Features decoded to pixels by a small decoder: the truth beside the prediction, per level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa.health.evidence import listing
from hjepa.visualization.decoder import cut_cells, explained
from hjepa.visualization.figures.cells import seen_part, with_cells
from hjepa.visualization.figures.figure import Figure
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.rollout import spread
from hjepa.visualization.figures.style import Picture, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure
    from torch import Tensor

    from hjepa.config import Geometry
    from hjepa.visualization.decoder import Decoder
    from hjepa.visualization.predictions import Predicted
    from hjepa.visualization.shown import Shown

ROWS = 5
_MOST_LEVELS = 4


@dataclass(frozen=True)
class Decoding:
    """Decoders of all levels and what they were trained and counted on.

    Attributes:
        decoders: one per level.
        trained_on: number of training images.
        mean: [C, H, W], their mean picture, normalised.
        held_out: per level, the share of pixel variance explained on held-out images.
    """

    decoders: list[Decoder]
    trained_on: int
    mean: Tensor
    held_out: list[float]


def decoder_figure(
    shown: Shown,
    features: list[Tensor],
    predicted: Predicted | None,
    decoding: Decoding,
    geometry: Geometry,
    predicted_shares: list[float] | None = None,
) -> Figure:
    """Decoded features of whole pictures, and decoded predictions of hidden cells.

    Args:
        shown: the pictures; the first five are drawn.
        features: per level [n, cells, D], their target features.
        predicted: predictions for them, scaled like targets; None without a predictor.
        decoding: the decoders.
        geometry: sizes of the model.
        predicted_shares: per level, the share of the pixel variance of hidden cells that decoded predictions explain.
    """
    shown = shown.head(ROWS)
    levels = spread(tuple(range(len(geometry.levels))), _MOST_LEVELS)
    pictures, images = shown.pictures, shown.images
    whole = {level: images.pictures(decoding.decoders[level].whole(features[level][: len(shown)])) for level in levels}
    filled: dict[int, list[Picture]] = {}
    if predicted is not None:
        for level in levels:
            cells = decoding.decoders[level].cells(predicted.predictions[level][: len(shown)])
            filled[level] = [
                with_cells(picture, geometry, level, predicted.index[level][i], images.pictures(cells[i]).__getitem__)
                for i, picture in enumerate(pictures)
            ]
    seen = None
    if predicted is not None:
        seen = [seen_part(picture, predicted.context[i], geometry) for i, picture in enumerate(pictures)]
    figure = _DecoderFigure(pictures, seen, levels, whole, filled)
    shares = listing([f"{decoding.held_out[level]:.0%} at level {level}" for level in levels])
    predictions = (
        " Beside it, the cells that are hidden from the context encoder, decoded from the prediction."
        if predicted is not None
        else " There is no trained predictor, so predictions are not shown."
    )
    hidden = ""
    if predicted_shares is not None:
        hidden = "; in hidden cells, the decoded prediction explains " + listing(
            [f"{predicted_shares[level]:.0%} at level {level}" for level in levels]
        )
    return Figure(
        name="decoder",
        title="Decoded features",
        caption=(
            f"A small network (two layers, trained on the frozen target features of {decoding.trained_on:,} training images) turns the features "
            f"of one cell into the pixels of this cell. Per level: {shown.what}, decoded from the features of the whole image."
            f"{predictions} On held-out images, the decoded truth explains {shares} of the variance of pixels around the mean picture{hidden}. "
            f"{shown.images.display_note()}"
        ).strip(),
        look_for=(
            "how much of position, shape and colour each level keeps, and whether the prediction agrees with the decoded "
            "truth, not with the image: what the features do not keep cannot be predicted. Sharp pictures are no aim; an "
            "untrained encoder keeps pixels well."
        ),
        alt=f"{len(shown)} pictures, each beside pictures decoded from its features at {len(levels)} level(s), by truth and prediction.",
        draw=figure.draw,
    )


def decoded_share(decoder: Decoder, features: Tensor, images: Tensor, mean: Tensor) -> float:
    """Share of the pixel variance of held-out images [n, C, H, W] that decoding their features [n, cells, D] explains."""
    return explained(decoder.whole(features), images, mean)


def predicted_share(decoder: Decoder, predicted: Predicted, images: Tensor, mean: Tensor, level: int) -> float:
    """Share of the pixel variance of the predicted cells of images [n, C, H, W] that decoded predictions explain."""
    index = predicted.index[level][:, :, None, None, None]
    true, middle = (
        cut_cells(images.cpu(), decoder.grid),
        cut_cells(mean[None], decoder.grid).expand(len(images), -1, -1, -1, -1),
    )
    pick = index.expand(-1, -1, *true.shape[2:])
    return explained(decoder.cells(predicted.predictions[level]), true.gather(1, pick), middle.gather(1, pick))


@dataclass(frozen=True)
class _DecoderFigure:
    pictures: list[Picture]
    seen: list[Picture] | None
    levels: list[int]
    whole: dict[int, list[Picture]]
    filled: dict[int, list[Picture]]

    def draw(self, theme: Theme) -> MatplotlibFigure:
        height, width = self.pictures[0].shape[:2]
        head, each = (2, 2) if self.seen is not None else (1, 1)
        starts = [head + each * i for i in range(len(self.levels))]
        grid = PictureGrid(
            len(self.pictures), head + each * len(self.levels), height / width, theme, top=0.42,
            groups=starts if each == 2 else starts[:1],
        )  # fmt: skip
        grid.title(0, "image")
        if self.seen is not None:
            grid.title(1, "seen")
        for start, level in zip(starts, self.levels, strict=True):
            second = "truth" if self.filled else "decoded"
            grid.title(start + each - 1, f"level {level}\n{second}", color=theme.levels[level], fit=True)
            if level in self.filled:
                grid.title(start, f"level {level}\nprediction", color=theme.levels[level], fit=True)
        for row, picture in enumerate(self.pictures):
            grid.show(row, 0, picture)
            if self.seen is not None:
                grid.show(row, 1, self.seen[row])
            for start, level in zip(starts, self.levels, strict=True):
                grid.show(row, start + each - 1, self.whole[level][row])
                if level in self.filled:
                    grid.show(row, start, self.filled[level][row])
        return grid.figure
