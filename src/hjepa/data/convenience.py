"""One call from a configuration to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hjepa.data.build import build_dataset
from hjepa.data.dataset import Split
from hjepa.data.loading.eval_loader import EvalLoader
from hjepa.data.loading.loader import TrainLoader
from hjepa.data.statistics import measure_statistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hjepa.config import Config
    from hjepa.data.views import ViewSpec


def build_dataloader(
    config: Config,
    split: Split = "train",
    *,
    device: torch.device | str = "cpu",
    views: Sequence[ViewSpec] | None = None,
    targets: bool = False,
) -> TrainLoader | EvalLoader:
    """The batches that a run of this configuration sees.

    Args:
        config: a whole configuration.
        split: ``"train"`` gives a `TrainLoader`, ``"validation"`` and ``"test"`` an `EvalLoader`.
        device: where batches go.
        views: what is cut from every training image; the one view of ``data.augmentation`` when not given.
        targets: whether batches have the labels, or whatever else is known about the images.

    Returns:
        A loader; normalised by ``data.mean`` and ``data.std``, or by the training images' own where not given.

    Raises:
        UserError: as `build_dataset`, for sizes that do not fit together, and for targets that there are none of.
        ValueError: ``views`` for a split that is not trained on: evaluation has one view, the centred crop.
    """
    if views is not None and split != "train":
        raise ValueError(f"views are for the training split; the {split} split has one, the centred crop")
    device = torch.device(device)
    size = config.geometry().height_width
    data, seed = config.data, config.seed
    dataset = build_dataset(data, split, seed=seed)
    if data.mean is not None and data.std is not None:
        mean, std = tuple(data.mean), tuple(data.std)
    else:
        train = dataset if split == "train" else build_dataset(data, "train", seed=seed)
        mean, std = measure_statistics(train, seed)
    if split == "train":
        return TrainLoader(
            dataset,
            data,
            size,
            mean=mean,
            std=std,
            seed=seed,
            accumulation_steps=config.training.accumulation_steps,
            device=device,
            views=views,
            with_targets=targets,
        )
    return EvalLoader(
        dataset,
        None,
        size,
        mean=mean,
        std=std,
        batch_size=data.batch_size,
        num_workers=data.num_workers,
        device=device,
        pin_memory=data.pin_memory,
        with_targets=targets,
    )
