"""A trained encoder with everything that using it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hjepa.data.images.preprocess import Preprocess

if TYPE_CHECKING:
    from hjepa.models import Encoder


class PretrainedEncoder(nn.Module):
    """A trained encoder with its normalisation.

    Args:
        encoder: what was trained.
        mean, std: normalisation per channel, for pixel values between 0 and 1.
        card: what is known about it: `name`, `step`, `commit`, `results` and so on.

    Example:
        >>> import torch
        >>> import hjepa
        >>> encoder = hjepa.load_pretrained("hjepa-tiny-cifar10")
        >>> pictures = torch.randint(0, 256, (4, 3, 48, 40), dtype=torch.uint8)
        >>> tuple(encoder.embed(pictures).shape) == (4, encoder.num_levels * encoder.embed_dim)
        True
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, mean: Sequence[float], std: Sequence[float], card: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.view = Preprocess(encoder.geometry.height_width, tuple(mean), tuple(std))
        self.card = card
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @property
    def embed_dim(self) -> int:
        """Width of each level's features."""
        return self.encoder.embed_dim

    @property
    def num_levels(self) -> int:
        """Number of levels."""
        return self.encoder.num_levels

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the encoder works at."""
        return self.encoder.geometry.height_width

    def preprocess(self, images: Tensor) -> Tensor:
        """Bring pictures to the form in which the evaluation reads them; see `hjepa.data.images.preprocess`.

        Args:
            images: [B, C, H, W] of any size, uint8 (0 to 255), uint16 (0 to 65535) or float (0 to 1).

        Returns:
            float32 [B, C, h, w]: the largest centred crop of the right shape, resized with antialiasing, normalised.

        Raises:
            ValueError: another number of axes or channels, or another type.
        """
        return self.view(images.to(self.mean.device))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of every level of preprocessed images, [B, cells, D] each, finest first. Differentiable."""
        return self.encoder.levels(images)

    def extract_features(
        self,
        images: Tensor,
        *,
        level: int | Literal["all"] = "all",
        depths: Sequence[int] | None = None,
        pool: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """Features of preprocessed images; see `hjepa.models.Encoder.extract_features`."""
        return self.encoder.extract_features(images, level=level, depths=depths, pool=pool)

    @torch.no_grad()
    def embed(
        self,
        images: Tensor,
        *,
        level: int | Literal["all"] = "all",
        depths: Sequence[int] | None = None,
        batch_size: int = 256,
    ) -> Tensor:
        """Mean-pooled features of raw pictures.

        Args:
            images: [N, C, H, W] as for `preprocess`.
            level: a level, or all side by side.
            depths: read after these encoder blocks instead, counted from 1, side by side, whatever the levels are.
            batch_size: images per forward pass.

        Returns:
            [N, D] for one level, [N, levels * D] for all, [N, depths * D].

        Raises:
            ValueError: no such level or depth, or images of another shape.
        """
        starts = range(0, len(images), batch_size)
        parts = [images[start : start + batch_size] for start in starts]
        return torch.cat([self.extract_features(self.preprocess(part), level=level, depths=depths) for part in parts])
