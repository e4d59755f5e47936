"""From images to one vector per image: which level, how cells are pooled, and what identifies the encoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hjepa.errors import UserError
from hjepa.models import distinct_levels
from hjepa.models.levels import pool_cells

if TYPE_CHECKING:
    from hjepa.evaluation.features import Reader
    from hjepa.models import Encoder

Pool = Literal["mean", "max"]
POOLS: tuple[Pool, ...] = ("mean", "max")
NAME = "embedding"


@dataclass(frozen=True)
class Encoding:
    """What is stored of an image.

    Attributes:
        level: ``"all"`` or the number of a level.
        pool: how the cells of a level become one vector.
        normalize: whether each level's vector is divided by its length.
        levels: numbers of the levels whose vectors are concatenated, in order.
        distinct: places in ``levels`` of those that are not repeated by another: with ``mean``, levels of one encoder
            depth have the same vector.
        width: dimensions of one level.
    """

    level: int | Literal["all"]
    pool: Pool
    normalize: bool
    levels: tuple[int, ...]
    distinct: tuple[int, ...]
    width: int

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return self.width * len(self.levels)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "level": self.level,
            "pool": self.pool,
            "normalisation": "l2" if self.normalize else "none",
            "levels": list(self.levels),
            "distinct_levels": list(self.distinct),
            "width": self.width,
            "dimensions": self.dimensions,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Encoding:
        """The encoding that `as_dict` described."""
        return cls(
            values["level"],
            values["pool"],
            values["normalisation"] == "l2",
            tuple(values["levels"]),
            tuple(values["distinct_levels"]),
            int(values["width"]),
        )


def choose_encoding(encoder: Encoder, level: int | str, pool: str, normalize: bool) -> Encoding:
    """Check what a user asked for.

    Args:
        encoder: the encoder.
        level: ``all``, ``last`` (the coarsest) or a number.
        pool: one of `POOLS`.
        normalize: divide each level's vector by its length.

    Raises:
        UserError: there is no such level or pooling.
    """
    count = encoder.num_levels
    text = str(level)
    if pool not in POOLS:
        raise UserError(f"--pool: unknown value {pool!r}; use {' or '.join(POOLS)}")
    if text == "all":
        repeated = distinct_levels(encoder.geometry) if pool == "mean" else tuple(range(count))
        return Encoding("all", pool, normalize, tuple(range(count)), repeated, encoder.embed_dim)
    number = count - 1 if text == "last" else int(text) if text.isdecimal() else -1
    if not 0 <= number < count:
        which = "0" if count == 1 else f"0 to {count - 1}"
        raise UserError(f"--level: {text!r} is not a level of this model; use {which}, last or all")
    return Encoding(number, pool, normalize, (number,), (0,), encoder.embed_dim)


def embedding_reader(encoder: Encoder, encoding: Encoding) -> Reader:
    """A reader of embeddings, [B, dimensions] under `NAME`, in one forward pass.

    With ``mean`` and without normalisation these are the features of an evaluation.

    Args:
        encoder: in evaluation mode.
        encoding: what to read.
    """
    geometry = encoder.geometry
    depths = sorted({geometry.levels[level].depth for level in encoding.levels})

    def read(images: Tensor) -> dict[str, Tensor]:
        tokens = encoder.extract_features(images, depths=depths, pool="none")
        taps = dict(zip(depths, tokens.chunk(len(depths), dim=2), strict=True))
        levels = [geometry.levels[number] for number in encoding.levels]
        cells = [pool_cells(taps[level.depth], geometry.grid, level.stride) for level in levels]
        pooled = [_pool(features, encoding.pool) for features in cells]
        if encoding.normalize:
            pooled = [torch.nn.functional.normalize(features.float(), dim=1) for features in pooled]
        return {NAME: torch.cat(pooled, dim=1)}

    return read


def _pool(cells: Tensor, pool: Pool) -> Tensor:
    """Cells [B, cells, D] to [B, D]."""
    return cells.mean(dim=1) if pool == "mean" else cells.amax(dim=1)


def directions(features: Tensor, encoding: Encoding) -> Tensor:
    """Embeddings as unit vectors whose products are cosine similarities, averaged over the distinct levels.

    Every level counts the same, as in the k-NN of an evaluation. A row of zeros stays zero.

    Args:
        features: [N, dimensions].
        encoding: what they are.

    Returns:
        float32 [N, width * distinct levels].
    """
    chunks = features.float().chunk(len(encoding.levels), dim=1)
    units = [torch.nn.functional.normalize(chunks[place], dim=1) for place in encoding.distinct]
    together: Tensor = torch.cat(units, dim=1) / math.sqrt(len(units))
    return together


def encoder_digest(encoder: Encoder) -> str:
    """Hash of the names and values of all weights."""
    total = hashlib.blake2b(digest_size=16)
    for name, value in sorted(encoder.state_dict().items()):
        total.update(f"{name}{tuple(value.shape)}".encode())
        total.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
