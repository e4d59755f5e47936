"""Build a data loader from a configuration in one call."""

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
    """Build the loader that a run of this configuration uses for a split.

    Args:
        config: the whole configuration.
        split: ``"train"`` gives a `TrainLoader`; ``"validation"`` and ``"test"`` give an `EvalLoader`.
        device: device of the batches.
        views: views to cut from every training image; by default the single view of ``data.augmentation``.
        targets: whether batches include the targets: labels, or those that the data set was given.

    Returns:
        A loader that normalises by ``data.mean`` and ``data.std``, or by the statistics of the training images if
        these are not set.

    Raises:
        UserError: as `build_dataset`; also for sizes that conflict, and for ``targets`` if the data set has none.
        ValueError: ``views`` for another split than train; evaluation has a single view, the centred crop.
    """
    if views is not None and split != "train":
        raise ValueError(f"views: only for the train split; the {split} split always has one view, the centred crop")
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
