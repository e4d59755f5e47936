"""The encoder interface, and the vision transformer."""

from __future__ import annotations

import contextlib
import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hjepa.config import Geometry, Grid, ModelConfig
from hjepa.config.grid import by, per_axis
from hjepa.models.blocks import NORM_EPS, Block, init_transformer
from hjepa.models.levels import level_features
from hjepa.models.positions import rope_angles, sincos


@dataclass(frozen=True)
class Features:
    """Features of an encoder's tokens.

    Attributes:
        taps: normalised features after each tapped block, by depth from 1, [B, N, D] each.
        grid: tokens per axis of the whole image; N is less than their product if tokens were hidden.
    """

    taps: dict[int, Tensor]
    grid: tuple[int, ...]


class Encoder(nn.Module, ABC):
    """Maps images to token features, and these to the features of every level.

    Methods train encoders; evaluation, visualization, packing and export use this interface only. Shapes are given for
    images; signals are [B, C, T] and clips [B, C, T, H, W].

    Args:
        geometry: sizes, depths of the levels, strides.
        channels: input channels.
    """

    def __init__(self, geometry: Geometry, channels: int) -> None:
        super().__init__()
        self.geometry = geometry
        self.channels = channels
        self.depths = tuple(sorted({level.depth for level in geometry.levels}))
        self.embed_dim = geometry.embed_dim
        self.image_size = geometry.image_size

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return len(self.geometry.levels)

    @abstractmethod
    def forward(
        self, images: Tensor, keep: Tensor | None = None, depths: Sequence[int] | None = None
    ) -> dict[int, Tensor]:
        """Encode images, or only their visible tokens.

        Args:
            images: [B, C, H, W], normalised.
            keep: int64 [B, Nc], row-major indices of visible tokens; all if None.
            depths: blocks to tap, counted from 1; the levels' depths if None.

        Returns:
            for each tapped depth the normalised features, [B, N, D] or [B, Nc, D].
        """

    def tokens(self, images: Tensor, keep: Tensor | None = None, depths: Sequence[int] | None = None) -> Features:
        """Like `forward`, and with the token grid."""
        return Features(self(images, keep, depths), self.geometry.grid)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Features of every level of whole images, [B, cells, D] each, finest first. Differentiable."""
        with self.as_written():
            return level_features(self(images), self.geometry)

    def as_written(self) -> contextlib.AbstractContextManager[object]:
        """Context without compilation, as batch sizes other than those of training would trigger recompilation."""
        if self._compiled_call_impl is None:
            return contextlib.nullcontext()
        return cast("contextlib.AbstractContextManager[object]", torch.compiler.set_stance("force_eager"))

    def extract_features(
        self,
        images: Tensor,
        *,
        level: int | Literal["all"] = "all",
        depths: Sequence[int] | None = None,
        pool: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """Features of whole images for downstream use. Differentiable; wrap in ``torch.no_grad()`` if not needed.

        Args:
            images: [B, C, H, W], normalised.
            level: a level (negative counts from the coarsest), or all levels concatenated.
            depths: concatenate the outputs of these encoder blocks instead, and ignore `level`.
            pool: `mean` over cells, or `none`.

        Returns:
            `mean`: [B, D], for all levels [B, L * D]. `none`: [B, cells, D]; for all levels the grids must be equal,
            [B, cells, L * D].

        Raises:
            ValueError: no such level or depth, or unpooled levels of unequal grids.
        """
        if depths is not None:
            with self.as_written():
                taps = self(images, depths=depths)
            features = [taps[depth] for depth in depths]
        else:
            features = self.levels(images)
            if level != "all":
                if not -self.num_levels <= level < self.num_levels:
                    raise ValueError(
                        f"level {level} of a model with {self.num_levels} level(s); use 0 to {self.num_levels - 1}"
                    )
                features = [features[level]]
        if pool == "mean":
            return torch.cat([f.mean(dim=1) for f in features], dim=-1)
        if len({f.shape[1] for f in features}) > 1:
            raise ValueError(
                "unpooled features of levels with different grids cannot be concatenated; choose one level"
            )
        return torch.cat(features, dim=-1)


class PatchEmbed(nn.Module):
    """Splits a signal, an image or a clip into patches and projects each linearly.

    The weights are those of a convolution over one, two or three axes; for images their name and shape are timm's.

    Args:
        patch: size of a patch along each axis.
        channels: input channels.
        dim: width.
    """

    def __init__(self, patch: tuple[int, ...], channels: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(patch) - 1]
        self.proj = convolution(channels, dim, kernel_size=patch, stride=patch)  # type: ignore[arg-type]

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed the patches, or only those kept.

        Args:
            images: [B, C, *sizes], for images [B, C, H, W].
            keep: int64 [B, Nc], row-major patch indices.

        Returns:
            [B, N, D] or [B, Nc, D].
        """
        B, C, *sizes = images.shape
        split = [part for size, side in zip(sizes, self.patch, strict=True) for part in (size // side, side)]
        grid_axes, patch_axes = range(2, 2 + len(split), 2), range(3, 2 + len(split), 2)
        # Equal to the convolution, but as a product over a matrix of patches, so that hidden patches cost nothing.
        patches = images.reshape(B, C, *split).permute(0, *grid_axes, 1, *patch_axes)
        patches = patches.reshape(B, -1, C * math.prod(self.patch))
        if keep is not None:
            patches = gather_tokens(patches, keep)
        return nn.functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(Encoder):
    """ViT (arXiv:2010.11929) without a class token, with fixed positions and taps at several depths.

    Parameter names are those of timm's ``VisionTransformer``: ``patch_embed.proj``, ``blocks.N.…``, ``norm`` for the
    last tap; norms of earlier taps are ``level_norms.<depth>``.

    Args:
        config: the ``model`` section.
        geometry: its resolved sizes.
        channels: input channels.
    """

    pos_embed: Tensor
    angles: Tensor

    def __init__(self, config: ModelConfig, geometry: Geometry, channels: int) -> None:
        super().__init__(geometry, channels)
        dim, depth = geometry.embed_dim, geometry.depth
        self.rope = config.position == "rope"
        self.gradient_checkpointing = config.gradient_checkpointing
        self.patch_embed = PatchEmbed(geometry.patch, channels, dim)
        if self.rope:
            self.register_buffer("angles", rope_angles(dim // geometry.num_heads, geometry.grid), persistent=False)
        else:
            self.register_buffer("pos_embed", sincos(dim, geometry.grid), persistent=False)
        rates = torch.linspace(0, config.drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(dim, geometry.num_heads, config.mlp_ratio, config.layer_scale, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.level_norms = nn.ModuleDict({str(d): nn.LayerNorm(dim, eps=NORM_EPS) for d in self.depths if d != depth})
        init_transformer(self)
        # The patch projection is a linear layer, and is initialised like one (MAE).
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(cast(Tensor, self.patch_embed.proj.bias))

    def forward(
        self, images: Tensor, keep: Tensor | None = None, depths: Sequence[int] | None = None
    ) -> dict[int, Tensor]:
        """Encode images, or only their visible tokens. Hidden tokens are dropped at the input, so they cost nothing and
        cannot influence the features.

        Args:
            images: [B, C, H, W], normalised.
            keep: int64 [B, Nc], row-major indices of visible tokens.
            depths: blocks to tap; the levels' depths if None.

        Returns:
            for each tapped depth the normalised features, [B, N, D] or [B, Nc, D].

        Raises:
            ValueError: images of another shape than the encoder's, a depth out of range, or no depths.
        """
        wanted = self.depths if depths is None else tuple(depths)
        if not wanted:
            raise ValueError(f"no depths given; use any of 1 to {len(self.blocks)}")
        for depth in wanted:
            if not 1 <= depth <= len(self.blocks):
                raise ValueError(
                    f"depth {depth} of an encoder with {len(self.blocks)} blocks; use 1 to {len(self.blocks)}"
                )
        x, angles = self._embed(images, keep)
        taps: dict[int, Tensor] = {}
        for depth, block in enumerate(self.blocks, start=1):
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, angles, use_reentrant=False))
            else:
                x = block(x, angles)
            if depth in wanted:
                taps[depth] = self.level_norm(x, depth)
        return taps

    def _embed(self, images: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Tokens with their positions [B, N, D], and the rotary angles, if any."""
        if images.shape[1:] != (self.channels, *self.image_size):
            raise ValueError(
                f"images of shape {tuple(images.shape)} for an encoder of {self.channels} channels and "
                f"size {by(self.image_size)}; resize or convert them first"
            )
        x = self.patch_embed(images, keep)
        if self.rope:
            return x, self.angles if keep is None else self.angles[keep]
        return x + (self.pos_embed if keep is None else self.pos_embed[keep]), None

    def attention(self, images: Tensor) -> list[Tensor]:
        """Attention weights of every block on whole images, by explicit products.

        Args:
            images: [B, C, H, W], normalised.

        Returns:
            per block float32 [B, heads, N, N], query by key; each row sums to 1.

        Raises:
            ValueError: images of another shape than the encoder's.
        """
        x, angles = self._embed(images)
        weights: list[Tensor] = []
        with self.as_written():
            for block in self.blocks:
                x, found = cast(Block, block).with_weights(x, angles)
                weights.append(found)
        return weights

    def at_size(self, image_size: Grid) -> VisionTransformer:
        """This encoder, with the same weights, for inputs of another size.

        Positions are those of the trained grid, stretched over the new one: fixed sines and cosines (or rotary angles)
        are evaluated between the trained coordinates. At the trained size they are exactly the trained ones. Strides of
        levels stay the same in tokens, so that a larger input has more cells.

        Args:
            image_size: pixels along each axis, a multiple of the patch size.

        Raises:
            ValueError: a size that is not a multiple of the patch size, or whose grid a stride does not divide.
        """
        geometry = replace(self.geometry, image_size=tuple(image_size))
        steps = [geometry.patch, *(per_axis(lv.stride, geometry.axes) for lv in geometry.levels if lv.stride)]
        for sizes, step in zip([image_size, *[geometry.grid] * len(steps)], steps, strict=False):
            if len(sizes) != len(step) or any(size < n or size % n for size, n in zip(sizes, step, strict=True)):
                raise ValueError(f"image size {by(image_size)}: {by(sizes)} is not a multiple of {by(step)}")
        other = copy.copy(self)
        # Modules are shared; only what depends on the grid is replaced.
        other._buffers = dict(self._buffers)
        other.geometry, other.image_size = geometry, geometry.image_size
        name = "angles" if self.rope else "pos_embed"
        trained = self.get_buffer(name)
        width = self.embed_dim // geometry.num_heads if self.rope else self.embed_dim
        table = (rope_angles if self.rope else sincos)(width, geometry.grid, over=self.geometry.grid)
        other._buffers[name] = table.to(trained)
        return other

    def level_norm(self, x: Tensor, depth: int) -> Tensor:
        """Normalise the tap after ``depth`` blocks [B, N, D]; without learned parameters if no level has this depth."""
        if depth == len(self.blocks):
            return cast(Tensor, self.norm(x))
        if str(depth) in self.level_norms:
            return cast(Tensor, self.level_norms[str(depth)](x))
        return nn.functional.layer_norm(x, (self.embed_dim,), eps=NORM_EPS)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, n, D] of x [B, N, D] at int64 index [B, n]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
