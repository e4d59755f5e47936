"""What a configuration means in tokens: encoder plan, token grid and levels, with every check on their combination."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa.errors import UserError

if TYPE_CHECKING:
    from hjepa.config.model import ModelConfig

# width, depth, heads: the plans of DeiT (arXiv:2012.12877) and MAE (arXiv:2111.06377)
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
    """One level: tapped after ``depth`` blocks, averaged over ``stride`` x ``stride`` tokens (0: over all)."""

    depth: int
    stride: int


@dataclass(frozen=True)
class Geometry:
    """The resolved sizes of a model."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: tuple[int, int]
    levels: tuple[Level, ...]
    predictor_dim: int
    predictor_heads: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens as (rows, columns)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Number of tokens of an image."""
        return self.grid[0] * self.grid[1]

    def level_grid(self, level: int) -> tuple[int, int]:
        """Cells of a level as (rows, columns)."""
        stride = self.levels[level].stride
        return (self.grid[0] // stride, self.grid[1] // stride) if stride else (1, 1)


def resolve(model: ModelConfig, image_size: int | tuple[int, int] | None = None) -> Geometry:
    """Turn names and optional keys into numbers.

    Args:
        model: the ``model`` section.
        image_size: ``data.image_size``; wins over the size in the encoder's name.

    Raises:
        UserError: a name that is not known, or sizes that do not fit together; the message names the key.
    """
    match = _NAME.fullmatch(model.encoder_type)
    if match is None:
        raise UserError(
            f"model.encoder_type: {model.encoder_type!r} is not known; use vit_{{tiny,small,base,large,huge}}"
            "_patch{P}_{S}, for example vit_tiny_patch16_224"
        )
    named_dim, named_depth, named_heads = ENCODERS[match[1]]
    patch = int(match[2])
    if patch < 1:
        raise UserError(f"model.encoder_type: patch size {patch} in {model.encoder_type!r} must be at least 1")
    dim = model.embed_dim or named_dim
    if model.num_heads is not None:
        heads = model.num_heads
    else:
        heads = named_heads if dim == named_dim else max(1, dim // 64)
    _check_heads("model", dim, heads)
    if model.position == "rope" and (dim // heads) % 4:
        raise UserError(
            f"model.position: rope needs a head width that 4 divides, and {dim}/{heads} = {dim // heads} is not; "
            f"change model.num_heads or use sincos"
        )
    if model.position == "sincos" and dim % 4:
        raise UserError(f"model.embed_dim: {dim} must be a multiple of 4 for sine-cosine positions")
    size = image_size if image_size is not None else int(match[3])
    height, width = (size, size) if isinstance(size, int) else size
    if height < patch or width < patch or height % patch or width % patch:
        fits = [max(patch, round(side / patch) * patch) for side in (height, width)]
        would_do = str(fits[0]) if height == width else f"[{fits[0]}, {fits[1]}]"
        raise UserError(
            f"data.image_size: {height}x{width} is not a multiple of the patch size {patch}; {would_do} would do"
        )
    grid = (height // patch, width // patch)
    levels = _levels(model, model.depth or named_depth, grid)
    predictor_dim = model.predictor.embed_dim or dim
    predictor_heads = model.predictor.num_heads or max(1, predictor_dim // 64)
    _check_heads("model.predictor", predictor_dim, predictor_heads)
    if model.predictor.coarse_to_fine and model.predictor.sharing == "shared":
        raise UserError(
            "model.predictor.coarse_to_fine: a shared predictor answers for all levels at once; set "
            "model.predictor.sharing=separate"
        )
    if predictor_dim % 4:
        raise UserError(f"model.predictor.embed_dim: {predictor_dim} must be a multiple of 4 for its positions")
    return Geometry(
        embed_dim=dim,
        depth=max(level.depth for level in levels),
        num_heads=heads,
        patch_size=patch,
        image_size=(height, width),
        levels=levels,
        predictor_dim=predictor_dim,
        predictor_heads=predictor_heads,
    )


def _check_heads(path: str, dim: int, heads: int) -> None:
    if dim % heads:
        fits = [n for n in range(1, dim + 1) if dim % n == 0]
        nearest = min(fits, key=lambda n: abs(n - heads))
        raise UserError(f"{path}.num_heads: {heads} does not divide the width {dim}; {nearest} would")


def _levels(model: ModelConfig, depth: int, grid: tuple[int, int]) -> tuple[Level, ...]:
    if model.levels is not None:
        levels = tuple(Level(level.depth, level.stride) for level in model.levels)
        for i, level in enumerate(levels):
            if level.depth > depth:
                raise UserError(
                    f"model.levels.{i}.depth: {level.depth} is more than the encoder's {depth} blocks; use 1 to {depth}"
                )
            if level.stride == 0:
                if i + 1 < len(levels) or i == 0:
                    raise UserError(
                        f"model.levels.{i}.stride: 0 averages the whole image, which can only be the last of several levels"
                    )
                continue
            if grid[0] % level.stride or grid[1] % level.stride:
                raise UserError(
                    f"model.levels.{i}.stride: {level.stride} does not divide the token grid {grid[0]}x{grid[1]}; "
                    f"{', '.join(map(str, _strides(grid)))} would"
                )
        coarsest = max(level.stride for level in levels)
        for i, level in enumerate(levels):
            if i and level.depth < levels[i - 1].depth:
                raise UserError(
                    f"model.levels.{i}: finer than level {i - 1}; list levels from finest (shallow, small stride) to coarsest"
                )
            if level.stride == 0:
                continue
            if coarsest % level.stride:
                raise UserError(
                    f"model.levels.{i}.stride: {level.stride} does not divide the coarsest stride {coarsest}, so cells "
                    "would not nest; use strides that divide one another"
                )
            if i and (level.depth, level.stride) == (levels[i - 1].depth, levels[i - 1].stride):
                raise UserError(f"model.levels.{i}: the same depth and stride as level {i - 1}; change one of them")
            if i and level.stride < levels[i - 1].stride:
                raise UserError(
                    f"model.levels.{i}: finer than level {i - 1}; list levels from finest (shallow, small stride) to coarsest"
                )
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


def _strides(grid: tuple[int, int]) -> list[int]:
    common = math.gcd(*grid)
    return [s for s in range(1, common + 1) if common % s == 0]


def _nested_strides(grid: tuple[int, int], count: int) -> list[int]:
    """The smallest chain 1 < s1 < s2 ... of strides that divide one another and the grid."""
    chain = [1]
    for stride in _strides(grid)[1:]:
        if stride % chain[-1] == 0 and len(chain) < count:
            chain.append(stride)
    if len(chain) < count:
        raise UserError(
            f"model.num_hierarchies: {count} pooled levels do not fit the token grid {grid[0]}x{grid[1]}, whose strides "
            f"nest to {len(chain)} levels; use at most {len(chain)}, model.hierarchy=depths, or another image size"
        )
    return chain
