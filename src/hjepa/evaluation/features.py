"""Features of a split, computed once: one pass over the images serves every encoder and every level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.data import EvalLoader
from hjepa.errors import DataError

if TYPE_CHECKING:
    from hjepa.data import ImageDataset
    from hjepa.models import HJEPA

Encoder = Callable[[Tensor], Tensor]
"""From normalised images ``[B, C, H, W]`` to ``[B, D]``."""


@dataclass(frozen=True)
class View:
    """How images are brought before a model.

    Attributes:
        image_size: height and width that the model sees.
        mean, std: normalisation per channel, in units of the full pixel range.
        device: where the encoders are.
        batch_size: images per forward pass.
        num_workers: processes that decode what does not lie in memory.
        pin_memory: page-locked memory for their copies to a GPU.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    pin_memory: bool = False


def level_encoder(model: HJEPA) -> Encoder:
    """All levels of the target encoder, averaged over cells and side by side: ``[B, levels * D]``."""
    return lambda images: model.extract_features(images, level="all", pool="mean", encoder="target")


def depth_encoder(model: HJEPA, depths: Sequence[int]) -> Encoder:
    """The target encoder read after some blocks, whatever its levels: ``[B, depths * D]``."""
    return lambda images: model.extract_features(images, depths=depths, pool="mean", encoder="target")


@torch.inference_mode()
def encode(
    dataset: ImageDataset, indices: Tensor | None, encoders: Mapping[str, Encoder], view: View
) -> tuple[dict[str, Tensor], Tensor]:
    """Run every encoder over some images of a split in one pass.

    Args:
        dataset: the split.
        indices: int64 rows of it; all when not given.
        encoders: by name.
        view: how images are resized, normalised and batched.

    Returns:
        per encoder ``[N, D]`` float32 on the CPU, and the rows they belong to, int64 ``[N]``: fewer than asked for
        where files turn out to be unreadable and the policy is to skip them.

    Raises:
        DataError: not one of the images can be read.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in encoders}
    rows: list[Tensor] = []
    for batch in EvalLoader(
        dataset,
        indices,
        view.image_size,
        mean=view.mean,
        std=view.std,
        batch_size=view.batch_size,
        num_workers=view.num_workers,
        pin_memory=view.pin_memory,
        device=view.device,
    ):
        for name, encoder in encoders.items():
            parts[name].append(encoder(batch.images).float().cpu())
        rows.append(batch.indices.cpu())
    if not rows:
        raise DataError(
            f"data.dataset={dataset.name}: no readable image in the {dataset.split} split; check data.data_path"
        )
    return {name: torch.cat(blocks) for name, blocks in parts.items()}, torch.cat(rows)


def extract(
    model: HJEPA, dataset: ImageDataset, view: View, indices: Tensor | None = None
) -> tuple[list[Tensor], Tensor]:
    """Mean-pooled target-encoder features of every level.

    Args:
        model: in evaluation mode, on ``view.device``.
        dataset: the split.
        view: how images are resized, normalised and batched.
        indices: int64 rows of it; all when not given.

    Returns:
        ``[N, D]`` float32 on the CPU per level, finest first, and the rows they belong to.
    """
    features, rows = encode(dataset, indices, {"model": level_encoder(model)}, view)
    return list(features["model"].chunk(model.num_levels, dim=1)), rows
