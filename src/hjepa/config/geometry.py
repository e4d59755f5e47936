"""Encoder size, token grid and levels of a configuration, with the checks on their combination."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa.config.grid import MOST_AXES, Grid, PerAxis, axis_widths, by, canonical, cells, per_axis, plane, shown
from hjepa.errors import UserError

if TYPE_CHECKING:
    from hjepa.config.model import ModelConfig

# width, depth, heads, as in DeiT (arXiv:2012.12877) and MAE (arXiv:2111.06377)
ENCODERS = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
_NAME = re.compile(r"vit_(tiny|small|base|large|huge)_patch(\d+)_(\d+)")


@dataclass(frozen=True)
class Level:
    """One level: tapped after ``depth`` blocks, averaged over cells of ``stride`` tokens.

    A stride is one number if it is the same along every axis (1: no pooling; 0: the whole input), otherwise a tuple
    with one number per axis.
    """

    depth: int
    stride: PerAxis

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", canonical(self.stride))


@dataclass(frozen=True)
class Geometry:
    """The resolved sizes of a model.

    The input has as many axes as ``image_size`` has numbers: one (a signal [B, C, T]), two (an image [B, C, H, W]) or
    three (a clip [B, C, T, H, W]). ``patch_size`` is one number if it is the same along every axis.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: PerAxis
    image_size: Grid
    levels: tuple[Level, ...]
    predictor_dim: int
    predictor_heads: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", canonical(self.patch_size))

    @property
    def axes(self) -> int:
        """Axes of the input."""
        return len(self.image_size)

    @property
    def patch(self) -> tuple[int, ...]:
        """Size of a patch along each axis."""
        return per_axis(self.patch_size, self.axes)

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width, for code that supports images only. Raises `UserError` for signals and clips."""
        return plane(self.image_size)

    @property
    def grid(self) -> Grid:
        """Tokens along each axis: (rows, columns) for images."""
        return cells(self.image_size, self.patch)

    @property
    def num_tokens(self) -> int:
        """Number of tokens of an input."""
        return math.prod(self.grid)

    def level_grid(self, level: int) -> Grid:
        """Cells of a level along each axis."""
        return cells(self.grid, self.levels[level].stride)


def resolve(model: ModelConfig, image_size: int | Grid | None = None, patch_size: PerAxis | None = None) -> Geometry:
    """Turn names and optional keys into numbers.

    Args:
        model: the ``model`` section.
        image_size: ``data.image_size``; overrides the size in the encoder's name. One number is the side of a square
            image; (T,) is a signal, (H, W) an image, (T, H, W) a clip.
        patch_size: overrides the one in the encoder's name; one number for all axes, or one per axis.

    Raises:
        UserError: an unknown name, or sizes that do not fit together; the message names the key.
    """
    match = _NAME.fullmatch(model.encoder_type)
    if match is None:
        raise UserError(
            f"model.encoder_type: unknown encoder {model.encoder_type!r}; use vit_{{tiny,small,base,large,huge}}"
            "_patch{P}_{S}, for example vit_tiny_patch16_224"
        )
    named_dim, named_depth, named_heads = ENCODERS[match[1]]
    if int(match[2]) < 1:
        raise UserError(f"model.encoder_type: patch size {match[2]} in {model.encoder_type!r} must be at least 1")
    size, patch = _sizes(int(match[3]) if image_size is None else image_size, patch_size or int(match[2]))
    dim = model.embed_dim or named_dim
    if model.num_heads is not None:
        heads = model.num_heads
    else:
        heads = named_heads if dim == named_dim else max(1, dim // 64)
    _check_heads("model", dim, heads)
    predictor_dim = model.predictor.embed_dim or dim
    predictor_heads = model.predictor.num_heads or max(1, predictor_dim // 64)
    _check_heads("model.predictor", predictor_dim, predictor_heads)
    _check_positions(model, dim, heads, predictor_dim, len(size))
    levels = _levels(model, model.depth or named_depth, cells(size, patch))
    if model.predictor.coarse_to_fine and model.predictor.sharing == "shared":
        raise UserError(
            "model.predictor.coarse_to_fine: a shared predictor predicts all levels at once; set "
            "model.predictor.sharing=separate"
        )
    return Geometry(
        embed_dim=dim,
        depth=max(level.depth for level in levels),
        num_heads=heads,
        patch_size=patch,
        image_size=size,
        levels=levels,
        predictor_dim=predictor_dim,
        predictor_heads=predictor_heads,
    )


def _sizes(image_size: int | Grid, patch_size: PerAxis) -> tuple[Grid, Grid]:
    """Input and patch along each axis."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if not 1 <= len(size) <= MOST_AXES:
        raise UserError(
            f"data.image_size: got {len(size)} numbers; give one for a signal (T,), two for an image (H, W), three for a "
            "clip (T, H, W)"
        )
    try:
        patch = per_axis(patch_size, len(size))
    except ValueError as error:
        raise UserError(f"patch_size: {error}") from None
    if min(patch) < 1:
        raise UserError(f"patch_size: {by(patch)} must be at least 1 along every axis")
    if any(side < step or side % step for side, step in zip(size, patch, strict=True)):
        fits = [max(step, round(side / step) * step) for side, step in zip(size, patch, strict=True)]
        square = len(size) == 2 and len({*size}) == len({*patch}) == 1
        raise UserError(
            f"data.image_size: {by(size)} is not a multiple of the patch size {shown(canonical(patch))}; "
            f"use {fits[0] if square else fits}"
        )
    return size, patch


def _check_heads(path: str, dim: int, heads: int) -> None:
    if dim % heads:
        fits = [n for n in range(1, dim + 1) if dim % n == 0]
        nearest = min(fits, key=lambda n: abs(n - heads))
        raise UserError(f"{path}.num_heads: {heads} does not divide the width {dim}; use {nearest}")


def _check_positions(model: ModelConfig, dim: int, heads: int, predictor_dim: int, axes: int) -> None:
    """Check that every axis gets whole pairs of position features."""
    if model.position == "rope":
        try:
            axis_widths(dim // heads, axes)
        except ValueError as error:
            raise UserError(
                f"model.position: with rope, the head width {dim}/{heads} = {error}; change model.num_heads or use sincos"
            ) from None
    widths = {"model.predictor.embed_dim": predictor_dim}
    if model.position == "sincos":
        widths = {"model.embed_dim": dim, **widths}
    for key, width in widths.items():
        try:
            axis_widths(width, axes)
        except ValueError as error:
            raise UserError(f"{key}: {error} for sine-cosine positions") from None


def _levels(model: ModelConfig, depth: int, grid: Grid) -> tuple[Level, ...]:
    if model.levels is not None:
        for i, listed in enumerate(model.levels):
            try:
                per_axis(listed.stride, len(grid))
            except ValueError as error:
                raise UserError(f"model.levels.{i}.stride: {error}") from None
        levels = tuple(Level(level.depth, level.stride) for level in model.levels)
        for i, level in enumerate(levels):
            _check_level(f"model.levels.{i}", level, depth, grid, may_be_whole=0 < i == len(levels) - 1)
        for i in range(1, len(levels)):
            _check_order(i, levels[i - 1], levels[i], len(grid))
        return levels
    count = model.num_hierarchies
    depths = [depth] * count
    strides = [1] * count
    if model.hierarchy in ("depths", "both"):
        if count > depth:
            raise UserError(
                f"model.num_hierarchies: {count} levels need at least {count} blocks, the encoder has {depth}"
            )
        depths = [round(depth * (i + 1) / count) for i in range(count)]
    if model.hierarchy in ("pooled", "both") and count > 1:
        strides = _nested_strides(grid, count)
    return tuple(Level(d, s) for d, s in zip(depths, strides, strict=True))


def _check_level(path: str, level: Level, depth: int, grid: Grid, *, may_be_whole: bool) -> None:
    if level.depth > depth:
        raise UserError(f"{path}.depth: {level.depth} is more than the encoder's {depth} blocks; use 1 to {depth}")
    if level.stride == 0:
        if not may_be_whole:
            raise UserError(f"{path}.stride: only the last of several levels can average the whole image (stride 0)")
        return
    if all(size % stride == 0 for size, stride in zip(grid, per_axis(level.stride, len(grid)), strict=True)):
        return
    if isinstance(level.stride, int):
        fits = ", ".join(map(str, _divisors(math.gcd(*grid))))
    else:
        fits = " by ".join("/".join(map(str, _divisors(size))) for size in grid)
    raise UserError(
        f"{path}.stride: {shown(level.stride)} does not divide the token grid {by(grid)}; use one of {fits}"
    )


def _check_order(number: int, finer: Level, level: Level, axes: int) -> None:
    """Check that levels are listed from finest to coarsest and that their cells nest."""
    path = f"model.levels.{number}"
    strides = list(zip(per_axis(finer.stride, axes), per_axis(level.stride, axes), strict=True))
    if level.depth < finer.depth or (level.stride and any(coarse < fine for fine, coarse in strides)):
        raise UserError(
            f"{path}: finer than level {number - 1}; list levels from finest (shallow, small stride) to coarsest"
        )
    if level == finer:
        raise UserError(f"{path}: the same depth and stride as level {number - 1}; change one of them")
    if any(coarse % fine for fine, coarse in strides):
        raise UserError(
            f"{path}.stride: {shown(level.stride)} is not a multiple of {shown(finer.stride)}, the stride of level "
            f"{number - 1}, so cells would not nest; use strides that divide one another"
        )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _nested_strides(grid: Grid, count: int) -> list[int]:
    """The smallest chain 1 < s1 < s2 ... of strides that divide one another and the grid."""
    chain = [1]
    for stride in _divisors(math.gcd(*grid))[1:]:
        if stride % chain[-1] == 0 and len(chain) < count:
            chain.append(stride)
    if len(chain) < count:
        raise UserError(
            f"model.num_hierarchies: {count} pooled levels do not fit the token grid {by(grid)}; use at most "
            f"{len(chain)}, model.hierarchy=depths, or another image size"
        )
    return chain
