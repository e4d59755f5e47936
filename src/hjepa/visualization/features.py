"""Features of held-out images from the trained encoder, the untrained encoder and raw pixels, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.errors import UserError
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.models import Encoder
    from hjepa.visualization.split_images import SplitImages

LARGEST_GALLERY = 1500
SMALLEST_GALLERY = 200
# Budget of FLOP on a CPU, about 90 s on two cores; only large encoders need fewer images to stay within it.
_CPU_FLOP = 2e13
_PIXEL_SIDE = 32
TOKEN_IMAGES = 96


@dataclass(frozen=True)
class Gallery:
    """Pooled features of held-out images, in the order of `rows`.

    Attributes:
        rows: int64 [N], rows of the test split.
        labels: int64 [N], -1 for unknown; None without labels.
        trained, untrained: [N, L * D], features of all levels, each normalised to unit length, concatenated.
        pixels: [N, P], images reduced to at most 32 pixels per side, flattened.
        levels: number of levels, L.
    """

    rows: Tensor
    labels: Tensor | None
    trained: Tensor
    untrained: Tensor
    pixels: Tensor
    levels: int = 1

    @property
    def scope(self) -> str:
        """The levels that the features are from, for captions."""
        return " (all levels)" if self.levels > 1 else ""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class TokenFeatures:
    """Cell features of held-out images.

    Attributes:
        images: [B, C, H, W], normalised.
        trained, untrained: per level [B, cells, D].
    """

    images: Tensor
    trained: list[Tensor]
    untrained: list[Tensor]


def gallery_size(encoder: Encoder, available: int) -> int:
    """Number of images to encode: up to 1,500, fewer for a large encoder on a CPU."""
    size = LARGEST_GALLERY
    if next(encoder.parameters()).device.type == "cpu":
        weights = sum(p.numel() for p in encoder.parameters())
        # Two encoders, two operations per weight and token.
        per_image = 2 * 2 * weights * encoder.geometry.num_tokens
        size = min(size, max(SMALLEST_GALLERY, int(_CPU_FLOP / per_image)))
    return min(size, available)


@torch.inference_mode()
def encode_gallery(images: SplitImages, trained: Encoder, untrained: Encoder, *, console: bool = False) -> Gallery:
    """Encode the first images of the random order.

    Args:
        images: the split.
        trained, untrained: the encoders.
        console: show progress on standard output.

    Raises:
        DataError: no image can be read.
        UserError: the features are not finite.
    """
    rows = images.order[: gallery_size(trained, len(images.order))]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with WorkProgress("figures: encoded", len(rows), "images", console=console) as progress:
        for batch in images.batches(rows):
            parts.append(
                (
                    batch.indices.cpu(),
                    _pooled(trained, batch.images),
                    _pooled(untrained, batch.images),
                    _pixels(batch.images),
                )
            )
            progress.advance(len(batch.indices))
    if not parts:
        raise images.unreadable()
    found, ours, control, pixels = (torch.cat(column) for column in zip(*parts, strict=True))
    if not torch.isfinite(ours).all():
        raise UserError(
            "checkpoint: the features are NaN or infinite, so the run has diverged; use an earlier checkpoint"
        )
    labels = None if images.labels is None else images.labels[found]
    return Gallery(found, labels, ours, control, pixels, trained.num_levels)


@torch.inference_mode()
def encode_tokens(
    images: SplitImages, trained: Encoder, untrained: Encoder, count: int = TOKEN_IMAGES
) -> TokenFeatures:
    """Cell features of the first `count` images of the random order, from both encoders.

    Raises:
        DataError: no image can be read.
    """
    kept: list[Tensor] = []
    ours: list[list[Tensor]] = []
    control: list[list[Tensor]] = []
    for batch in images.batches(images.order[:count], batch_size=32):
        kept.append(batch.images.cpu())
        ours.append([level.float().cpu() for level in trained.levels(batch.images)])
        control.append([level.float().cpu() for level in untrained.levels(batch.images)])
    if not kept:
        raise images.unreadable()
    return TokenFeatures(
        torch.cat(kept),
        [torch.cat(level) for level in zip(*ours, strict=True)],
        [torch.cat(level) for level in zip(*control, strict=True)],
    )


@torch.inference_mode()
def encode_cells(images: SplitImages, trained: Encoder, count: int = TOKEN_IMAGES) -> list[Tensor]:
    """Cell features of the first `count` images of the random order, from the trained encoder: [B, cells, D] per level.

    Raises:
        DataError: no image can be read.
    """
    found = [
        [level.float().cpu() for level in trained.levels(batch.images)]
        for batch in images.batches(images.order[:count], batch_size=32)
    ]
    if not found:
        raise images.unreadable()
    return [torch.cat(level) for level in zip(*found, strict=True)]


def _pooled(encoder: Encoder, images: Tensor) -> Tensor:
    return torch.cat([F.normalize(level.float().mean(dim=1), dim=1) for level in encoder.levels(images)], dim=1).cpu()


def _pixels(images: Tensor) -> Tensor:
    images = images.float().cpu()
    scale = min(1.0, _PIXEL_SIDE / max(images.shape[2:]))
    if scale < 1:
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    return images.flatten(1)
