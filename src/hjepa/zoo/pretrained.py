"""A trained encoder with its preprocessing."""

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
        encoder: the trained encoder.
        mean, std: normalisation per channel, for pixel values between 0 and 1.
        card: metadata such as `name`, `step`, `commit` and `results`.

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
        """Height and width of the encoder's input."""
        return self.encoder.geometry.height_width

    def preprocess(self, images: Tensor) -> Tensor:
        """Preprocess images as the evaluation does; `hjepa.data.images.preprocess` says how closely the results agree.

        Args:
            images: [B, C, H, W] of any size, uint8 (0 to 255), uint16 (0 to 65535) or float (0 to 1).

        Returns:
            float32 [B, C, h, w]: the largest centred crop with the input's aspect ratio, resized with antialiasing and
            normalised.

        Raises:
            ValueError: wrong number of axes or channels, no pixels, an unsupported type, or floating-point values that
                are NaN or far outside 0 to 1.
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
        """Mean-pooled features of raw images.

        Args:
            images: [N, C, H, W] as for `preprocess`.
            level: a level, or all levels concatenated.
            depths: encoder blocks, counted from 1, whose features are concatenated instead of those of levels.
            batch_size: images per forward pass.

        Returns:
            [N, D] for one level, [N, levels * D] for all levels, [N, depths * D] for depths.

        Raises:
            ValueError: no such level or depth, no images, or images that `preprocess` rejects.
        """
        if not len(images):
            raise ValueError(f"expected at least one image, got shape {tuple(images.shape)}")
        starts = range(0, len(images), batch_size)
        parts = [images[start : start + batch_size] for start in starts]
        return torch.cat([self.extract_features(self.preprocess(part), level=level, depths=depths) for part in parts])
