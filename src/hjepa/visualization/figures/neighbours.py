"""Nearest neighbours of images by trained features and by raw pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.metrics import nearest_neighbours
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.style import Picture, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.visualization.features import Gallery
    from hjepa.visualization.split_images import ImageSource

_QUERIES = 8
_NEIGHBOURS = 5
_TITLE = "Nearest neighbours"


def neighbours_figure(
    images: ImageSource, gallery: Gallery, own: tuple[ImageSource, Gallery] | None = None
) -> Figure | Omitted:
    """Images with their nearest neighbours by trained features and by raw pixels.

    Args:
        images: the source of the gallery.
        gallery: the images among which neighbours are found.
        own: other pictures whose neighbours are shown, with their features; by default, images of the gallery.
    """
    if len(gallery) < 3:
        reason = f"The test split has {len(gallery)} readable image(s); neighbours need at least 3."
        return Omitted("neighbours", _TITLE, reason)
    k = min(_NEIGHBOURS, len(gallery) - 1)
    if own is not None:
        return _neighbours_of(*own, images, gallery, k)
    queries = choose_queries(gallery.labels, len(gallery), _QUERIES)
    ours_all, theirs_all = (others(features, k) for features in (gallery.trained, gallery.pixels))
    agreement = choice = ""
    if gallery.labels is not None:
        choice = _choice(gallery.labels, len(queries))
        agreement = _agreement(ours_all, theirs_all, gallery.labels)
    rows = gallery.rows[queries].tolist()
    names = [(images.class_name(images.label_of(row)), images.label_of(row)) for row in rows]
    heads = [_Tile(p, *name) for p, name in zip(_pictures(images, gallery, queries), names, strict=True)]
    return _figure(
        images, gallery, heads, ours_all[queries], theirs_all[queries], f"Held-out images drawn from the seed{choice}", agreement
    )  # fmt: skip


def _neighbours_of(own: ImageSource, theirs: Gallery, images: ImageSource, gallery: Gallery, k: int) -> Figure:
    """Pictures that are not in the gallery, with their neighbours in it."""
    count = min(_QUERIES, len(theirs))
    by_features, by_pixels = (
        nearest_neighbours(among, wanted[:count], k)[1]
        for wanted, among in ((theirs.trained, gallery.trained), (theirs.pixels, gallery.pixels))
    )
    names = own.names(theirs.rows[:count])
    pictures = own.pictures(own.normalised(theirs.rows[:count])[0])
    heads = [_Tile(picture, name, None) for picture, name in zip(pictures, names, strict=True)]
    return _figure(images, gallery, heads, by_features, by_pixels, "The given pictures", "")


def _figure(
    images: ImageSource, gallery: Gallery, heads: list[_Tile], ours: Tensor, theirs: Tensor, what: str, agreement: str
) -> Figure:
    k, n = ours.shape[1], len(heads)
    needed, place = torch.unique(torch.cat([ours.flatten(), theirs.flatten()]), return_inverse=True)
    labels = [images.label_of(row) for row in gallery.rows[needed].tolist()]
    tiles = [
        _Tile(picture, images.class_name(label), label)
        for picture, label in zip(_pictures(images, gallery, needed), labels, strict=True)
    ]
    nearest = [[tiles[p] for p in row] for row in place.view(2 * n, k).tolist()]
    blocks = [_Row(head, nearest[i], nearest[n + i]) for i, head in enumerate(heads)]
    figure = _NeighbourFigure(blocks, images.size, k)
    return Figure(
        name="neighbours",
        title=_TITLE,
        caption=(
            f"{what}, and the {k} most similar of {len(gallery)} held-out images by cosine "
            f"similarity of trained features{gallery.scope} and of raw pixels.{agreement} {images.display_note()}"
        ).strip(),
        look_for=(
            "neighbours with the same content even if colour, position or background differ. Neighbours that share only "
            "colour or layout, like those by pixels, indicate that little more was learned."
        ),
        alt=f"{n} rows: an image, its {k} nearest by trained features, its {k} nearest by raw pixels.{agreement}",
        draw=figure.draw,
    )


def _pictures(images: ImageSource, gallery: Gallery, places: Tensor) -> list[Picture]:
    """Pictures of a gallery's images at int64 places, in this order."""
    rows = gallery.rows[places]
    shown, found = images.normalised(rows)
    where = {int(row): i for i, row in enumerate(found)}
    pictures = images.pictures(shown)
    return [pictures[where[row]] for row in rows.tolist()]


def _choice(labels: Tensor, queries: int) -> str:
    classes = len(torch.unique(labels[labels >= 0]))
    if classes < queries:
        return ", at least one per class"
    return ", one per class" if classes == queries else ", each of a different class"


def _agreement(ours: Tensor, theirs: Tensor, labels: Tensor) -> str:
    """How often neighbours have the same class, as a sentence."""
    known = labels >= 0
    trained, pixels = (same_class(found, labels) for found in (ours, theirs))
    frequent = torch.bincount(labels[known]).double() / known.sum()
    chance = float(frequent.square().sum())
    return (
        f" Over all {len(labels)} images, the share of the {ours.shape[1]} nearest neighbours of the same class is {trained:.0%} by "
        f"trained features, {pixels:.0%} by pixels and {chance:.0%} by chance. A frame and bold type mark the same class."
    )


def choose_queries(labels: Tensor | None, size: int, count: int) -> Tensor:
    """Choose the first image of each class, in the order of the gallery, or the first images without labels.

    Rows are sorted by class. With more classes than rows, the classes whose first image comes first are used.

    Args:
        labels: int64 [N], -1 for unknown; None without labels.
        size: number of images, N.
        count: number of rows.

    Returns:
        int64, up to ``count`` rows of the gallery.
    """
    if labels is None:
        return torch.arange(min(count, size))
    first: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            first.setdefault(label, row)
    chosen = sorted(first.items())
    if len(chosen) > count:
        chosen = sorted(sorted(chosen, key=lambda item: item[1])[:count])
    rows = [row for _, row in chosen]
    # With fewer classes than rows, fill up with further images.
    rows += [row for row in range(size) if row not in rows][: max(0, min(count, size) - len(rows))]
    return torch.tensor(rows)


def others(features: Tensor, k: int) -> Tensor:
    """The k nearest other rows of every row of features [N, D], by cosine similarity: int64 [N, k]."""
    _, found = nearest_neighbours(features, features, k + 1)
    own = torch.arange(len(features))[:, None]
    # The row itself comes first, except among exact duplicates.
    keep = found != own
    late = keep.all(dim=1)
    keep[late, -1] = False
    return found[keep].reshape(len(features), k)


def same_class(found: Tensor, labels: Tensor) -> float:
    """Share of neighbours with the class of their query, 0 to 1, over labelled pairs.

    Args:
        found: int64 [N, k], neighbours of every row.
        labels: int64 [N], -1 for unknown.
    """
    theirs = labels[found]
    both = (theirs >= 0) & (labels[:, None] >= 0)
    return float(((theirs == labels[:, None]) & both).sum() / both.sum().clamp_min(1))


@dataclass(frozen=True)
class _Tile:
    picture: Picture
    name: str
    label: int | None


@dataclass(frozen=True)
class _Row:
    query: _Tile
    ours: list[_Tile]
    theirs: list[_Tile]


@dataclass(frozen=True)
class _NeighbourFigure:
    rows: list[_Row]
    size: tuple[int, int]
    k: int

    def draw(self, theme: Theme) -> MatplotlibFigure:
        named = any(row.query.name for row in self.rows)
        grid = PictureGrid(
            len(self.rows), 1 + 2 * self.k, self.size[0] / self.size[1], theme, top=0.3,
            below=0.17 if named else 0.0, groups=(1, 1 + self.k),
        )  # fmt: skip
        grid.title(0, "image", strong=True)
        for start, title in ((1, "nearest by trained features"), (1 + self.k, "nearest by raw pixels")):
            grid.title(start + (self.k - 1) // 2, title, color=theme.text, strong=True)
        for row, line in enumerate(self.rows):
            for column, tile in enumerate([line.query, *line.ours, *line.theirs]):
                self._tile(grid, row, column, tile, line.query.label if column else None, theme)
        return grid.figure

    def _tile(self, grid: PictureGrid, row: int, column: int, tile: _Tile, wanted: int | None, theme: Theme) -> None:
        grid.show(row, column, tile.picture)
        same = wanted is not None and tile.label == wanted
        if tile.name:
            color = theme.text if same or wanted is None else theme.muted
            grid.label(row, column, tile.name, color=color, strong=same)
        if same:
            grid.frame(row, column, theme.same)
