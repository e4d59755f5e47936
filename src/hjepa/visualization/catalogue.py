"""All figures by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from hjepa.errors import UserError
from hjepa.visualization.figures.attention import attention_figure
from hjepa.visualization.figures.cka import cka_figure
from hjepa.visualization.figures.curves import curves_figure
from hjepa.visualization.figures.decoder import decoder_figure
from hjepa.visualization.figures.embedding import embedding_figure, umap_figure
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.health import health_figure
from hjepa.visualization.figures.highres import highres_figure
from hjepa.visualization.figures.maps import maps_figure
from hjepa.visualization.figures.masks import masks_figure, no_masks
from hjepa.visualization.figures.neighbours import neighbours_figure
from hjepa.visualization.figures.patches import patches_figure
from hjepa.visualization.figures.predictions import predictions_figure
from hjepa.visualization.figures.rollout import rollout_figure
from hjepa.visualization.material import Material, require_umap
from hjepa.visualization.report.summary import level_name

Build = Callable[[Material], Figure | Omitted]


@dataclass(frozen=True)
class Kind:
    """A figure that can be asked for.

    Attributes:
        name: on the command line, and of the file.
        title: heading.
        about: what it shows, for the list.
        build: makes it.
        slow: takes more than about two seconds for a small run, so `hjepa train` leaves it to `hjepa visualize`.
        pictures: whether it shows pictures, and so can show the user's own.
    """

    name: str
    title: str
    about: str
    build: Build
    slow: bool = False
    pictures: bool = True


def _curves(material: Material) -> Figure | Omitted:
    again = f"`hjepa train --output-dir {material.home} --resume auto`"
    return curves_figure(material.records, _names(material), material.run.step, again)


def _health(material: Material) -> Figure | Omitted:
    return health_figure(material.records, material.run.config.health, _names(material))


def _masks(material: Material) -> Figure | Omitted:
    if material.sampler is None:
        return no_masks(material.run.config.method)
    return masks_figure(material.shown, material.sampler, material.geometry)


def _predictions(material: Material) -> Figure | Omitted:
    missing = _no_predictor(material, "predictions")
    if missing is not None or material.bank is None:
        return missing or _no_others("predictions")
    return predictions_figure(material.shown, material.predicted, material.bank, material.geometry, material.counted)


def _patches(material: Material) -> Figure | Omitted:
    missing = _no_predictor(material, "patches")
    if missing is not None or material.bank is None:
        return missing or _no_others("patches")
    return patches_figure(material.shown, material.predicted, material.bank, material.geometry)


def _decoder(material: Material) -> Figure | Omitted:
    if material.sampler is None:
        return Omitted(
            "decoder",
            TITLES["decoder"],
            f"Method `{material.run.config.method}` predicts no features of masked regions.",
        )
    predicted = material.predicted
    return decoder_figure(
        material.shown,
        predicted.targets,
        material.scaled(predicted) if material.predicts else None,
        material.decoding,
        material.geometry,
        material.predicted_shares if material.predicts else None,
    )


def _attention(material: Material) -> Figure | Omitted:
    return attention_figure(material.shown, material.run.encoder)


def _rollout(material: Material) -> Figure | Omitted:
    return rollout_figure(material.shown, material.run.encoder, material.untrained)


def _maps(material: Material) -> Figure | Omitted:
    source = material.own or material.images
    averaged = material.sampler is not None
    return maps_figure(source, material.tokens, material.geometry, material.position, averaged=averaged)


def _highres(material: Material) -> Figure | Omitted:
    return highres_figure(material.shown, material.run.encoder)


def _cka(material: Material) -> Figure | Omitted:
    return cka_figure(material.gallery.trained_levels, material.gallery.untrained_levels)


def _neighbours(material: Material) -> Figure | Omitted:
    return neighbours_figure(material.images, material.gallery, material.own_gallery)


def _embedding(material: Material) -> Figure | Omitted:
    return embedding_figure(material.images, material.gallery, material.layouts)


def _umap(material: Material) -> Figure | Omitted:
    require_umap()
    return umap_figure(material.images, material.gallery, material.run.config.seed)


KINDS = (
    Kind("curves", "Training curves", "loss per level, schedules, online k-NN, speed", _curves, pictures=False),
    Kind("health", "Health", "measures of the features over the run, with their limits", _health, pictures=False),
    Kind("masks", "Masks", "context and predicted cells of the first training steps", _masks),
    Kind("predictions", "What the predictor predicts", "hidden cells filled with the nearest patches of other images", _predictions, slow=True),
    Kind("patches", "Nearest patches of a predicted region", "the most similar patches of one hidden cell, by prediction and by truth", _patches, slow=True),
    Kind("decoder", "Decoded features", "features turned into pixels: prediction beside truth", _decoder, slow=True),
    Kind("attention", "Attention of the last block", "where each head of the last block looks", _attention),
    Kind("rollout", "Attention rollout", "attention followed through the blocks, up to each level", _rollout),
    Kind("maps", "Feature maps per level", "principal components of cell features as colours, trained and untrained", _maps),
    Kind("highres", "Feature maps at high resolution", "the same for enlarged pictures, with up to 16 times as many cells", _highres, slow=True),
    Kind("cka", "Similarity of levels", "CKA between levels, and with the untrained encoder", _cka, pictures=False),
    Kind("neighbours", "Nearest neighbours", "the most similar images by features and by pixels", _neighbours),
    Kind("embedding", "Map of the embedding", "images in the plane by PCA and t-SNE", _embedding, pictures=False),
    Kind("umap", "UMAP of the embedding", "images in the plane by UMAP; needs hjepa[umap]", _umap, slow=True, pictures=False),
)  # fmt: skip
TITLES = {kind.name: kind.title for kind in KINDS}
NAMES = tuple(kind.name for kind in KINDS)


def choose(names: Sequence[str] | None, *, own_pictures: bool = False, quick: bool = False) -> list[Kind]:
    """The figures to draw, in the order of the report.

    Args:
        names: their names; None for all, without `umap` if its package is missing.
        own_pictures: whether the user's own pictures are shown; then None means all figures that show pictures.
        quick: leave out the slow ones, if names is None.

    Raises:
        UserError: an unknown name; `umap` without its package.
    """
    if names is None:
        return [
            kind
            for kind in KINDS
            if not (quick and kind.slow)
            and (kind.pictures or not own_pictures)
            and (kind.name != "umap" or find_spec("umap") is not None)
        ]
    if not names:
        raise UserError(f"--figures: none given; choose from {', '.join(NAMES)}")
    for name in names:
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(NAMES)}"
            raise UserError(f"--figures: unknown figure {name}; {hint}")
    if "umap" in names:
        require_umap()
    return [kind for kind in KINDS if kind.name in names]


def _names(material: Material) -> list[str]:
    return [level_name(material.geometry, level) for level in range(material.run.encoder.num_levels)]


def _no_predictor(material: Material, name: str) -> Omitted | None:
    if material.predicts:
        return None
    if material.sampler is None:
        reason = f"Method `{material.run.config.method}` predicts no features of masked regions."
    else:
        reason = "A packed model is an encoder without its predictor; use the run folder or a checkpoint."
    return Omitted(name, TITLES[name], reason)


def _no_others(name: str) -> Omitted:
    return Omitted(name, TITLES[name], "There are no other held-out images to find patches in.")
