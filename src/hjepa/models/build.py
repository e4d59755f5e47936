"""Build models from names and from configurations."""

from __future__ import annotations

from typing import Literal

import torch

from hjepa.config import Config, Grid, ModelConfig, PerAxis, check_section, resolve
from hjepa.models.hjepa import HJEPA


def create_hjepa(
    encoder_type: str = "vit_tiny_patch16_224",
    embed_dim: int | None = None,
    num_hierarchies: int = 2,
    predictor_depth: int = 2,
    *,
    depth: int | None = None,
    num_heads: int | None = None,
    predictor_embed_dim: int | None = None,
    predictor_num_heads: int | None = None,
    predictor_sharing: Literal["shared", "separate"] = "shared",
    coarse_to_fine: bool = False,
    predict_visible: bool = False,
    hierarchy: Literal["depths", "pooled", "both"] = "depths",
    levels: list[tuple[int, PerAxis]] | None = None,
    image_size: int | Grid | None = None,
    patch_size: PerAxis | None = None,
    channels: int = 3,
    position: Literal["sincos", "rope"] = "sincos",
    seed: int | None = None,
) -> HJEPA:
    """Create an untrained model.

    ``image_size`` has one number per axis of the input: (T,) for signals [B, C, T], (H, W) for images [B, C, H, W],
    (T, H, W) for clips [B, C, T, H, W]. Configuration files support images only; models of signals and clips, and their
    masks (`hjepa.MaskSampler` on ``model.geometry.grid``), are created from Python.

    Args:
        encoder_type: ``vit_{tiny,small,base,large,huge}_patch{P}_{S}``.
        embed_dim, depth, num_heads: override those of ``encoder_type``.
        num_hierarchies: number of levels, 1 to 4; 1 is flat I-JEPA. For more, use ``levels``.
        predictor_depth: blocks of the predictor.
        predictor_embed_dim, predictor_num_heads, predictor_sharing, coarse_to_fine, predict_visible: see
            ``model.predictor``.
        hierarchy: how levels are derived; see ``model.hierarchy``.
        levels: explicit levels as (depth, stride), finest first, up to eight. A stride is one number, or one per axis:
            (4, 1, 1) averages four time steps of a clip.
        image_size: side of a square image, or the size along each axis; overrides that of ``encoder_type``.
        patch_size: one number, or one per axis; overrides that of ``encoder_type``.
        channels: input channels.
        position: `sincos` or `rope`.
        seed: seed of the weights; if None, PyTorch's current random state is used.

    Raises:
        UserError: an unknown name, a value out of bounds, or sizes that do not match; the message names the key of the
            configuration.

    Example:
        >>> import hjepa
        >>> model = hjepa.create_hjepa("vit_small_patch16_224", num_hierarchies=3)
        >>> model.num_levels, model.embed_dim
        (3, 384)
        >>> video = hjepa.create_hjepa("vit_tiny_patch16_224", image_size=(8, 64, 64), patch_size=(2, 16, 16),
        ...                            levels=[(6, 1), (12, (4, 1, 1))])
        >>> video.geometry.grid, video.geometry.level_grid(1)
        ((4, 4, 4), (1, 4, 4))
    """
    values = {
        "encoder_type": encoder_type,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "num_hierarchies": num_hierarchies,
        "hierarchy": hierarchy,
        "levels": None if levels is None else [{"depth": d, "stride": s} for d, s in levels],
        "position": position,
        "predictor": {
            "depth": predictor_depth,
            "embed_dim": predictor_embed_dim,
            "num_heads": predictor_num_heads,
            "sharing": predictor_sharing,
            "coarse_to_fine": coarse_to_fine,
            "predict_visible": predict_visible,
        },
    }
    config = check_section(ModelConfig, "model", values)
    return _build(config, image_size, channels, seed, patch_size=patch_size)


def build_model(config: Config, channels: int = 3) -> HJEPA:
    """The untrained model of a configuration; its weights are a function of ``config.seed`` alone."""
    learned = config.loss.hierarchy_weighting == "learned"
    return _build(config.model, config.data.image_size, channels, config.seed, learned_weights=learned)


def _build(
    config: ModelConfig,
    image_size: int | Grid | None,
    channels: int,
    seed: int | None,
    *,
    patch_size: PerAxis | None = None,
    learned_weights: bool = False,
) -> HJEPA:
    geometry = resolve(config, image_size, patch_size)
    if seed is None:
        return HJEPA(config, geometry, channels, learned_weights=learned_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HJEPA(config, geometry, channels, learned_weights=learned_weights)
