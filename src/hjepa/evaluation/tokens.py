"""Cell features of every level, for protocols that need more than their average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.data import ImageDataset
    from hjepa.evaluation.features import View

Tokens = Callable[[Tensor], Sequence[Tensor]]
"""From normalised images [B, C, H, W] to tokens [B, cells, D] per level."""


def patches(patch: tuple[int, int]) -> Tokens:
    """A control without an encoder: the pixels of every patch, [B, cells, C * h * w], as one level."""

    def read(images: Tensor) -> list[Tensor]:
        return [F.unfold(images, patch, stride=patch).transpose(1, 2)]

    return read


@torch.inference_mode()
def keep_tokens(
    dataset: ImageDataset, rows: Tensor, read: Tokens, view: View, progress: WorkProgress | None = None
) -> tuple[list[Tensor], Tensor]:
    """Tokens of some images of a split, in half precision.

    Args:
        dataset: the split.
        rows: int64 rows of it.
        read: the encoder.
        view: how images are prepared.
        progress: told of every image that was read.

    Returns:
        float16 [N, cells, D] per level on the host, and the rows they belong to; unreadable files are left out.
    """
    kept: list[Tensor] = []
    found: list[Tensor] = []
    filled = 0
    for batch in view.batches(dataset, rows):
        levels = read(batch.images)
        if not kept:  # filled in place, so that nothing is held twice
            kept = [torch.empty(len(rows), *tokens.shape[1:], dtype=torch.float16) for tokens in levels]
        end = filled + len(batch.indices)
        for store, tokens in zip(kept, levels, strict=True):
            store[filled:end] = tokens.cpu()
        filled = end
        found.append(batch.indices.cpu())
        if progress is not None:
            progress.advance(len(batch.indices))
    return [store[:filled] for store in kept], torch.cat(found) if found else rows[:0]
