"""Features of a split, computed once: one pass over the images serves every encoder and every level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hjepa.data import EvalLoader
from hjepa.errors import DataError
from hjepa.models import level_features
from hjepa.runtime.work_progress import WorkProgress

if TYPE_CHECKING:
    from hjepa.data import ImageDataset
    from hjepa.models import Encoder

Reader = Callable[[Tensor], Mapping[str, Tensor]]
"""From normalised images [B, C, H, W] to features [B, D] by name."""


@dataclass(frozen=True)
class View:
    """How images are prepared for a model.

    Attributes:
        image_size: height and width of the model's input.
        mean, std: normalisation per channel, in units of the full pixel range.
        device: device of the encoders.
        batch_size: images per forward pass.
        num_workers: processes that decode images that are not held in memory.
        pin_memory: use page-locked memory for copies to a GPU.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    batch_size: int = 64
    num_workers: int = 0
    pin_memory: bool = False

    def batches(
        self,
        dataset: ImageDataset,
        rows: Tensor | None = None,
        *,
        batch_size: int | None = None,
        with_targets: bool = False,
    ) -> EvalLoader:
        """Batches of images prepared in this way, without augmentation.

        Args:
            dataset: the split.
            rows: int64 rows of it; all when not given.
            batch_size: images per batch instead of `batch_size`.
            with_targets: whether batches include the targets.
        """
        return EvalLoader(
            dataset,
            rows,
            self.image_size,
            mean=self.mean,
            std=self.std,
            batch_size=batch_size or self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            device=self.device,
            with_targets=with_targets,
        )


def encoder_reader(encoder: Encoder, name: str, depths: Sequence[int] = ()) -> Reader:
    """A reader of an encoder's features, averaged over cells and concatenated, in one forward pass.

    Args:
        encoder: in evaluation mode.
        name: key of the features of all levels, [B, levels * D].
        depths: blocks that are read in addition to the levels, [B, depths * D] under ``<name>_depths``.
    """
    tapped = sorted({level.depth for level in encoder.geometry.levels} | set(depths))

    def read(images: Tensor) -> dict[str, Tensor]:
        tokens = encoder.extract_features(images, depths=tapped, pool="none")
        taps = dict(zip(tapped, tokens.chunk(len(tapped), dim=2), strict=True))
        features = {name: level_features(taps, encoder.geometry)}
        if depths:
            features[f"{name}_depths"] = [taps[depth] for depth in depths]
        return {key: torch.cat([f.mean(dim=1) for f in parts], dim=1) for key, parts in features.items()}

    return read


@torch.inference_mode()
def encode(
    dataset: ImageDataset,
    indices: Tensor | None,
    encoders: Sequence[Reader],
    view: View,
    progress: WorkProgress | None = None,
    *,
    empty: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Run every encoder over some images of a split in one pass.

    Args:
        dataset: the split.
        indices: int64 rows of it; all when not given.
        encoders: readers whose features have different names.
        view: how images are resized, normalised and batched.
        progress: told of every image that was read.
        empty: return no features, rather than raise, if none of the images can be read.

    Returns:
        features by name, [N, D] float32 on the CPU, and the rows they belong to, int64 [N]; fewer than
        requested if files are unreadable and ``data.bad_images`` is ``skip``.

    Raises:
        DataError: none of the images can be read.
    """
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    rows: list[Tensor] = []
    for batch in view.batches(dataset, indices):
        for encoder in encoders:
            for name, features in encoder(batch.images).items():
                parts[name].append(features.float().cpu())
        rows.append(batch.indices.cpu())
        if progress is not None:
            progress.advance(len(batch.indices))
    if not rows and empty:
        return {}, torch.zeros(0, dtype=torch.int64)
    if not rows:
        raise DataError(
            f"data.dataset={dataset.name}: no readable image in the {dataset.split} split; check data.data_path"
        )
    return {name: torch.cat(blocks) for name, blocks in parts.items()}, torch.cat(rows)


def extract(
    encoder: Encoder, dataset: ImageDataset, view: View, indices: Tensor | None = None
) -> tuple[list[Tensor], Tensor]:
    """Mean-pooled features of every level.

    Args:
        encoder: in evaluation mode, on ``view.device``.
        dataset: the split.
        view: how images are resized, normalised and batched.
        indices: int64 rows of it; all when not given.

    Returns:
        [N, D] float32 on the CPU per level, finest first, and the rows they belong to.
    """
    features, rows = encode(dataset, indices, [encoder_reader(encoder, "model")], view)
    return list(features["model"].chunk(encoder.num_levels, dim=1)), rows
