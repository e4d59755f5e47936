"""The vision transformer: drops hidden tokens and hands out features from several depths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hjepa.config import Geometry, ModelConfig
from hjepa.models.blocks import NORM_EPS, Block, init_transformer
from hjepa.models.positions import rope_angles, sincos_2d


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each linearly."""

    def __init__(self, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed the patches, or only those kept.

        Args:
            images: [B, C, H, W].
            keep: int64 [B, Nc], row-major patch indices.

        Returns:
            [B, N, D] or [B, Nc, D].
        """
        B, C, H, W = images.shape
        P = self.patch_size
        # The same product as the convolution, on a matrix of patches: hidden patches cost nothing.
        patches = images.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * P * P)
        if keep is not None:
            patches = gather_tokens(patches, keep)
        return nn.functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """ViT (arXiv:2010.11929) without a class token, with fixed positions and taps at several depths.

    Parameter names equal those of timm's ``VisionTransformer``: ``patch_embed.proj``, ``blocks.N.…``, ``norm`` for the
    last tap; norms of shallower taps are ``level_norms.<depth>``.

    Args:
        config: the ``model`` section.
        geometry: its resolved sizes.
        channels: input channels.
    """

    pos_embed: Tensor
    angles: Tensor

    def __init__(self, config: ModelConfig, geometry: Geometry, channels: int) -> None:
        super().__init__()
        dim, depth = geometry.embed_dim, geometry.depth
        self.depths = tuple(sorted({level.depth for level in geometry.levels}))
        self.embed_dim = dim
        self.channels = channels
        self.image_size = geometry.image_size
        self.rope = config.position == "rope"
        self.gradient_checkpointing = config.gradient_checkpointing
        self.patch_embed = PatchEmbed(geometry.patch_size, channels, dim)
        if self.rope:
            self.register_buffer("angles", rope_angles(dim // geometry.num_heads, geometry.grid), persistent=False)
        else:
            self.register_buffer("pos_embed", sincos_2d(dim, geometry.grid), persistent=False)
        rates = torch.linspace(0, config.drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(dim, geometry.num_heads, config.mlp_ratio, config.layer_scale, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.level_norms = nn.ModuleDict({str(d): nn.LayerNorm(dim, eps=NORM_EPS) for d in self.depths if d != depth})
        init_transformer(self)
        # A patch projection is a linear layer in disguise: fan-in scaling as for one (MAE).
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(cast(Tensor, self.patch_embed.proj.bias))

    def forward(
        self, images: Tensor, keep: Tensor | None = None, depths: Sequence[int] | None = None
    ) -> dict[int, Tensor]:
        """Encode images, or only their visible tokens. Hidden tokens are dropped at the input: they cost nothing and
        cannot influence anything.

        Args:
            images: [B, C, H, W], normalised.
            keep: int64 [B, Nc], row-major indices of visible tokens.
            depths: where to tap; the levels' depths when not given.

        Returns:
            for each tapped depth the normalised features, [B, N, D] or [B, Nc, D].

        Raises:
            ValueError: images of another shape than the encoder was built for, a depth that it lacks, or no depths at all.
        """
        wanted = self.depths if depths is None else tuple(depths)
        if not wanted:
            raise ValueError(f"no depths to read after; give some of 1 to {len(self.blocks)}")
        for depth in wanted:
            if not 1 <= depth <= len(self.blocks):
                raise ValueError(
                    f"depth {depth} of an encoder with {len(self.blocks)} blocks; use 1 to {len(self.blocks)}"
                )
        if images.shape[1:] != (self.channels, *self.image_size):
            raise ValueError(
                f"images of shape {tuple(images.shape)} for an encoder of {self.channels} channels and "
                f"{self.image_size[0]}x{self.image_size[1]} pixels; resize or convert them first"
            )
        x = self.patch_embed(images, keep)
        angles = None
        if self.rope:
            angles = self.angles if keep is None else self.angles[keep]
        else:
            x = x + (self.pos_embed if keep is None else self.pos_embed[keep])
        taps: dict[int, Tensor] = {}
        for depth, block in enumerate(self.blocks, start=1):
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = cast(Tensor, checkpoint(block, x, angles, use_reentrant=False))
            else:
                x = block(x, angles)
            if depth in wanted:
                taps[depth] = self.level_norm(x, depth)
        return taps

    def level_norm(self, x: Tensor, depth: int) -> Tensor:
        """Normalise the tap after ``depth`` blocks [B, N, D]; without learned parameters where no level is."""
        if depth == len(self.blocks):
            return cast(Tensor, self.norm(x))
        if str(depth) in self.level_norms:
            return cast(Tensor, self.level_norms[str(depth)](x))
        return nn.functional.layer_norm(x, (self.embed_dim,), eps=NORM_EPS)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, n, D] of x [B, N, D] at int64 index [B, n]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
