"""The embedding in two dimensions, by PCA and by t-SNE for the trained and the untrained encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa.metrics import PCA
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.style import Theme, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from hjepa.visualization.features import Gallery
    from hjepa.visualization.split_images import ImageSource

Points = NDArray[np.float32]

TITLE = "Map of the embedding"
_NAMED_CLASSES = 10
# With fewer images, neighbourhoods in t-SNE are not meaningful.
_FEWEST_FOR_TSNE = 50
_PERPLEXITY = 30
_COMPONENTS = 50


@dataclass(frozen=True)
class Layout:
    """Images placed in the plane.

    Attributes:
        name: the method and the encoder: "trained, t-SNE".
        points: [N, 2].
    """

    name: str
    points: Points


def layouts(gallery: Gallery, seed: int) -> list[Layout]:
    """Principal components of trained features, and with at least 50 images t-SNE of trained and untrained ones."""
    plane, explained = principal_plane(gallery.trained)
    found = [Layout(f"trained, PCA ({explained:.0%} of variance)", plane)]
    if len(gallery) >= _FEWEST_FOR_TSNE:
        found.append(Layout("trained, t-SNE", tsne(gallery.trained, seed)))
        found.append(Layout("untrained, t-SNE", tsne(gallery.untrained, seed)))
    return found


def umap_layouts(gallery: Gallery, seed: int) -> list[Layout]:
    """UMAP of trained and untrained features. Raises `ImportError` without the package umap-learn."""
    return [
        Layout("trained, UMAP", umap(gallery.trained, seed)),
        Layout("untrained, UMAP", umap(gallery.untrained, seed)),
    ]


def embedding_figure(images: ImageSource, gallery: Gallery, panels: list[Layout]) -> Figure | Omitted:
    """Maps of pooled features by PCA and t-SNE (see `layouts`), coloured by class if there are labels."""
    if len(gallery) < 3:
        return too_few("embedding", TITLE, gallery)
    method = "projected on their first two principal components"
    if len(panels) > 1:
        method += (
            ", and their t-SNE maps for the trained and the untrained encoder. In t-SNE, distances between groups and sizes "
            "of groups are not meaningful"
        )
    else:
        method += f". t-SNE is omitted because it needs at least {_FEWEST_FOR_TSNE} images"
    return _map_figure("embedding", TITLE, method, images, gallery, panels)


def umap_figure(images: ImageSource, gallery: Gallery, seed: int) -> Figure | Omitted:
    """UMAP maps (McInnes and others, 2018, arXiv:1802.03426) of the trained and the untrained encoder.

    Raises:
        ImportError: the package umap-learn is not installed.
    """
    if len(gallery) < _FEWEST_FOR_TSNE:
        return too_few("umap", "UMAP of the embedding", gallery, _FEWEST_FOR_TSNE)
    method = (
        "as maps by UMAP (arXiv:1802.03426) for the trained and the untrained encoder. Groups are more compact than in t-SNE; "
        "their distances and sizes mean as little. Another computer may give another map of the same features"
    )
    return _map_figure("umap", "UMAP of the embedding", method, images, gallery, umap_layouts(gallery, seed))


def too_few(name: str, title: str, gallery: Gallery, needed: int = 3) -> Omitted:
    """In place of a map of too few images."""
    return Omitted(name, title, f"The test split has {len(gallery)} readable image(s); a map needs at least {needed}.")


def _map_figure(
    name: str, title: str, method: str, images: ImageSource, gallery: Gallery, panels: list[Layout]
) -> Figure:
    colours = colouring(gallery.labels, images)
    note = colours.note if colours is not None else "The images have no labels, so all points have the same colour."
    figure = _EmbeddingFigure(panels, colours)
    purpose = (
        "images of one class that are closer together in the trained map than in the untrained one. Groups that do not "
        "match classes are not wrong; their images may have something else in common."
        if colours is not None
        else "groups that are missing in the untrained map: the encoder separates these images by something it has "
        "learned. A single even cloud shows no separation."
    )
    return Figure(
        name=name,
        title=title,
        caption=f"Pooled features{gallery.scope} of {len(gallery)} {images.what}, {method}. {note}",
        look_for=purpose,
        alt=f"{len(panels)} scatter plots of {len(gallery)} images: " + "; ".join(p.name for p in panels) + ".",
        draw=figure.draw,
    )


def principal_plane(features: Tensor) -> tuple[Points, float]:
    """Project features [N, D] on their first two principal components.

    Returns:
        the projection [N, 2], and the share of variance that it explains, 0 to 1.
    """
    pca = PCA.fit(features, min(2, *features.shape))
    points = pca.transform(features)
    if points.shape[1] < 2:
        points = torch.cat([points, torch.zeros(len(points), 1)], dim=1)
    share = float(pca.variance.sum()) / pca.total_variance if pca.total_variance > 0 else 0.0
    return points.numpy(), min(1.0, share)


def tsne(features: Tensor, seed: int) -> Points:
    """t-SNE (van der Maaten and Hinton, 2008) of the leading principal components: [N, 2], reproducible by the seed."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = PCA.fit(features, min(_COMPONENTS, *features.shape)).transform(features)
    # t-SNE's gradient descent assumes a common scale, and scikit-learn requires seeds below 2**32.
    reduced = reduced / reduced.std().clamp_min(1e-12)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=seed % 2**32, max_iter=500)
    # One thread: its parallel loops are so short that synchronisation makes it up to ten times slower on a busy
    # machine.
    with threadpool_limits(1):
        points: Points = layout.fit_transform(reduced.numpy()).astype(np.float32)
    return points


def umap(features: Tensor, seed: int) -> Points:
    """UMAP of the leading principal components: [N, 2]; the same on one machine by the seed. Raises `ImportError`."""
    import warnings

    from threadpoolctl import threadpool_limits
    from umap import UMAP

    reduced = PCA.fit(features, min(_COMPONENTS, *features.shape)).transform(features)
    # The result is reproducible with a single thread only, of which the package warns.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        placed = UMAP(n_neighbors=min(15, len(features) - 1), random_state=seed % 2**32, n_jobs=1).fit_transform(
            reduced.numpy()
        )
    points: Points = np.asarray(placed, dtype=np.float32)
    return points


@dataclass(frozen=True)
class Colouring:
    """Groups of points, each with a name, a mask [N] and the index of its colour (None for grey)."""

    groups: list[tuple[str, NDArray[np.bool_], int | None]]
    note: str


def colouring(labels: Tensor | None, images: ImageSource) -> Colouring | None:
    """One group of points per class, the ten most frequent classes in colours of their own; None without labels."""
    if labels is None:
        return None
    values = labels.numpy()
    classes, counts = np.unique(values[values >= 0], return_counts=True)
    most = classes[np.argsort(-counts, kind="stable")][:_NAMED_CLASSES]
    named = sorted(int(c) for c in most)
    groups: list[tuple[str, NDArray[np.bool_], int | None]] = [
        (images.class_name(c), values == c, i) for i, c in enumerate(named)
    ]
    rest = ~np.isin(values, named)
    note = "Colours are classes."
    if rest.any():
        groups.insert(0, ("other" if len(classes) > len(named) else "no label", rest, None))
    if len(classes) > len(named):
        note = f"Colours are the {len(named)} most frequent of {len(classes)} classes; all others are grey."
    return Colouring(groups, note)


@dataclass(frozen=True)
class _EmbeddingFigure:
    panels: list[Layout]
    colouring: Colouring | None

    def draw(self, theme: Theme) -> MatplotlibFigure:
        count = len(self.panels)
        names = [] if self.colouring is None else self.colouring.groups
        foot = 0.08 + 0.22 * -(-len(names) // 6) if names else 0.05
        side = min(9.0 / count, 4.2)
        height = side + 0.3 + foot
        figure = new_figure(height, theme, width=side * count)
        handles = []
        for i, panel in enumerate(self.panels):
            axes = figure.add_axes(
                ((i + 0.02) / count, (foot + 0.02) / height, 0.96 / count, (side - 0.04) / height),
                facecolor=theme.background,
            )
            axes.set_title(panel.name, loc="left", fontsize=9, color=theme.text, pad=5)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(theme.line)
            size = float(np.clip(9000 / max(1, len(panel.points)), 5, 30))
            everything = names if names else [("", np.ones(len(panel.points), dtype=bool), 0)]
            marks = []
            for name, chosen, index in everything:
                color = theme.other if index is None else theme.classes[index % len(theme.classes)]
                marks.append(
                    axes.scatter(
                        panel.points[chosen, 0],
                        panel.points[chosen, 1],
                        s=size,
                        color=color,
                        alpha=0.8,
                        linewidths=0,
                        label=name,
                    )
                )
            handles = marks
            axes.margins(0.04)
        if names:
            # "other" is drawn first, so that it is below the classes, but listed last.
            ordered = sorted(zip(handles, names, strict=True), key=lambda pair: pair[1][2] is None)
            figure.legend(
                handles=[mark for mark, _ in ordered], loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=6, frameon=False,
                fontsize=8, labelcolor=theme.text, markerscale=1.8, handletextpad=0.2, columnspacing=1.2, borderaxespad=0.1,
            )  # fmt: skip
        return figure
