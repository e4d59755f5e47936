"""Features of held-out images from the trained encoder, the untrained encoder and raw pixels, in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.errors import UserError
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.models import Encoder
    from hjepa.visualization.split_images import ImageSource

LARGEST_GALLERY = 1500
SMALLEST_GALLERY = 200
# Budget of FLOP on a CPU, about 90 s on two cores; only large encoders need fewer images to stay within it.
_CPU_FLOP = 2e13
_PIXEL_SIDE = 32
_THUMBNAIL_SIDE = 40
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
        trained_levels, untrained_levels: per level [N, D], the same features before normalisation.
        thumbnails: uint8 [N, h, w, 3], at most 40 pixels per side; None if they were not made.
    """

    rows: Tensor
    labels: Tensor | None
    trained: Tensor
    untrained: Tensor
    pixels: Tensor
    levels: int = 1
    trained_levels: list[Tensor] = field(default_factory=list)
    untrained_levels: list[Tensor] = field(default_factory=list)
    thumbnails: Tensor | None = None

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
    # Two encoders share the budget.
    return min(LARGEST_GALLERY, max(SMALLEST_GALLERY, cpu_images(encoder, share=0.5)), available)


def cpu_images(encoder: Encoder, *, share: float) -> int:
    """How many images an encoder can process within a share of the time that figures may take on a CPU (about 90 s on two
    cores); practically unlimited on other devices."""
    if next(encoder.parameters()).device.type != "cpu":
        return 1_000_000
    weights = sum(p.numel() for p in encoder.parameters())
    # Two operations per weight and token.
    return max(1, int(share * _CPU_FLOP / (2 * weights * encoder.geometry.num_tokens)))


@torch.inference_mode()
def encode_gallery(images: ImageSource, trained: Encoder, untrained: Encoder, *, console: bool = False) -> Gallery:
    """Encode the first images of a source.

    Args:
        images: the source.
        trained, untrained: the encoders.
        console: show progress on standard output.

    Raises:
        DataError: no image can be read.
        UserError: the features are not finite.
    """
    rows = images.order[: gallery_size(trained, len(images.order))]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    with WorkProgress("figures: encoded", len(rows), "images", console=console) as progress:
        for batch in images.batches(rows):
            parts.append(
                (
                    batch.indices.cpu(),
                    _pooled(trained, batch.images),
                    _pooled(untrained, batch.images),
                    _pixels(batch.images),
                    _thumbnails(images, batch.images),
                )
            )
            progress.advance(len(batch.indices))
    if not parts:
        raise images.unreadable()
    found, ours, control, pixels, thumbnails = (torch.cat(column) for column in zip(*parts, strict=True))
    if not torch.isfinite(ours).all():
        raise UserError(
            "checkpoint: the features are NaN or infinite, so the run has diverged; use an earlier checkpoint"
        )
    labels = None if images.labels is None else images.labels[found]
    return Gallery(
        rows=found,
        labels=labels,
        trained=_unit(ours),
        untrained=_unit(control),
        pixels=pixels,
        levels=trained.num_levels,
        trained_levels=list(ours.unbind(dim=1)),
        untrained_levels=list(control.unbind(dim=1)),
        thumbnails=thumbnails,
    )


@torch.inference_mode()
def encode_tokens(
    images: ImageSource, trained: Encoder, untrained: Encoder, count: int = TOKEN_IMAGES
) -> TokenFeatures:
    """Cell features of the first `count` images of a source, from both encoders.

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
def encode_cells(images: ImageSource, trained: Encoder, count: int = TOKEN_IMAGES) -> list[Tensor]:
    """Cell features of the first `count` images of a source, from the trained encoder: [B, cells, D] per level.

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
    """[b, L, D]."""
    return torch.stack([level.float().mean(dim=1) for level in encoder.levels(images)], dim=1).cpu()


def _unit(levels: Tensor) -> Tensor:
    """[N, L, D] to [N, L * D], every level with length 1."""
    return F.normalize(levels, dim=2).flatten(1)


def _pixels(images: Tensor) -> Tensor:
    return _reduced(images.float().cpu(), _PIXEL_SIDE).flatten(1)


def _thumbnails(source: ImageSource, images: Tensor) -> Tensor:
    """uint8 [b, h, w, 3]."""
    return torch.stack([torch.from_numpy(p) for p in source.pictures(_reduced(images.float().cpu(), _THUMBNAIL_SIDE))])


def _reduced(images: Tensor, most: int) -> Tensor:
    """Images [b, C, H, W] with at most so many pixels per side."""
    scale = min(1.0, most / max(images.shape[2:]))
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
