"""An encoder with a linear head, whose features are those of the linear probe."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hjepa.models import Encoder


class Classifier(nn.Module):
    """Mean-pooled features of all depths with a level, standardised by batch normalisation, and a linear layer.

    The encoder is a copy whose parameters have gradients, so training never changes the one that was given (a target
    encoder, whose parameters have none).

    Args:
        encoder: is copied.
        num_classes: C.
        seed: seed of the head's weights.
    """

    def __init__(self, encoder: Encoder, num_classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        width = len(encoder.depths) * encoder.embed_dim
        self.norm = nn.BatchNorm1d(width, affine=False)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.head = nn.Linear(width, num_classes)
            nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.to(next(encoder.parameters()).device)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of normalised images [B, C, H, W]."""
        features = self.encoder.extract_features(images, depths=self.encoder.depths)
        logits: Tensor = self.head(self.norm(features))
        return logits

    def train_last_blocks(self, blocks: int) -> None:
        """Freeze everything but the last blocks of the encoder, the norms after them, and the head.

        Args:
            blocks: how many, at least 1; all blocks of the encoder or more train the whole of it.
        """
        depth = self.encoder.geometry.depth
        if blocks >= depth:
            return
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(layer_of(name, depth) > depth - blocks)


def layer_of(name: str, depth: int) -> int:
    """Number of the layer that a parameter of an encoder belongs to: 0 the patch projection, 1 to ``depth`` the blocks.

    Norms belong to the block after which they are read; parameters of other names to the last block.

    Args:
        name: name of the parameter, as in timm: ``patch_embed.…``, ``blocks.N.…``, ``level_norms.<depth>.…``.
        depth: number of blocks.
    """
    parts = name.split(".")
    if parts[0] == "patch_embed":
        return 0
    if parts[0] == "blocks" and len(parts) > 1 and parts[1].isdigit():
        return int(parts[1]) + 1
    if parts[0] == "level_norms" and len(parts) > 1 and parts[1].isdigit():
        return int(parts[1])
    return depth
