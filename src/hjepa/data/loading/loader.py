"""Load augmented training batches, the same for any number of processes, workers and accumulation steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import EncodedPixels, ImageDataset, MemoryPixels
from hjepa.data.images.crops import Crops, colour_table, random_crops, view_draws
from hjepa.data.images.decode import unit_scale
from hjepa.data.images.photometric import normalise, recolour
from hjepa.data.images.resample import crop_batch, crop_one
from hjepa.data.images.transfer import send
from hjepa.data.loading.assemble import check_statistics, check_targets, make_view, read_targets, unit
from hjepa.data.loading.batch import Batch, View
from hjepa.data.loading.first_read import MEMORY_LIMIT
from hjepa.data.loading.order import ShardOrder, StepOrder, micro_batch
from hjepa.data.loading.worker_loader import WorkerLoader
from hjepa.data.loading.workers import Job, Preparation, note_bad
from hjepa.data.shards.ahead import Ahead
from hjepa.data.shards.blobs import ShardBlobs
from hjepa.data.views import ViewSpec, default_views, one_per_view
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig


class TrainLoader:
    """Training batches by optimiser step.

    A step has ``global_batch = batch_size * accumulation_steps * world_size`` positions; micro-batch m of rank r holds
    ``batch_size`` positions from ``(m * world_size + r) * batch_size``. The image at a position is a function of (seed,
    step, position) alone, and its augmentation of (seed, step, position, view), so a view does not depend on the
    others.

    Args:
        dataset: the training split.
        data: the ``data`` section: batch size, augmentation, storage, workers.
        image_size: (H, W) of the default view, in pixels.
        mean: one value per channel, for pixel values in [0, 1].
        std: one value per channel.
        seed: seed of the run.
        accumulation_steps: forward passes per optimiser step.
        rank: rank of this process.
        world_size: number of processes.
        device: device of the batches; with ``storage="device"`` also of the images.
        views: the views that a method needs; by default the single view of ``data.augmentation``.
        with_targets: whether batches include the targets; if not, targets are not read.

    Attributes:
        views: one specification per view, in the order of `Batch.views`.
        storage: ``"device"`` (images are on the device and cropped in batches) or ``"workers"`` (images are cropped one
            by one as they are read).
        global_batch: images per optimiser step.
        steps_per_epoch: optimiser steps per epoch; images that do not fill a step are dropped.

    Raises:
        UserError: ``mean`` or ``std`` do not have one value per channel, or targets are requested but there are none.
        ValueError: two kinds of views share a name, or a view does not have two axes.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        data: DataConfig,
        image_size: tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device,
        views: Sequence[ViewSpec] | None = None,
        with_targets: bool = False,
    ) -> None:
        check_statistics(dataset, mean, std)
        self._targets = check_targets(dataset, with_targets)
        self.dataset = dataset
        self.device = device
        self.views = one_per_view(default_views(data, image_size) if views is None else views)
        for spec in self.views:
            _ = spec.plane  # raises if a view does not have two axes
        self._mean, self._std = tuple(mean), tuple(std)
        self._seed = seed
        self._batch_size = data.batch_size
        self._accumulation_steps = accumulation_steps
        self._rank, self._world_size = rank, world_size
        self.global_batch = data.batch_size * accumulation_steps * world_size
        self._order = _order(dataset, data, self.global_batch, seed)
        self.steps_per_epoch = self._order.steps_per_epoch
        self.storage: Literal["device", "workers"] = _storage(dataset, data)
        if self.storage == "device":
            self._images = _on_device(dataset, device)
        else:
            self._workers = WorkerLoader(
                Preparation(
                    dataset.pixels,
                    self.views,
                    targets=self._targets,
                    substitute=data.bad_images == "skip",
                    reduce=data.jpeg_reduction,
                ),
                num_workers=data.num_workers,
                prefetch_factor=data.prefetch_factor,
                pin_memory=data.pin_memory and device.type == "cuda",
                persistent=True,
            )
            self._ahead = _ahead(dataset)

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Iterate over the batches of the steps ``start_step`` to ``stop_step - 1``.

        Yields ``accumulation_steps`` batches per step, in the order (step, micro-batch).

        Raises:
            DataError: a file cannot be read under ``data.bad_images=stop``, too many files in a row cannot be read, or
                a worker process died or stalled.
        """
        return (
            self._from_device(start_step, stop_step)
            if self.storage == "device"
            else self._from_workers(start_step, stop_step)
        )

    def split(self, batch_size: int, accumulation_steps: int) -> None:
        """Change the micro-batch size without changing the steps. Invalidates existing iterators.

        Args:
            batch_size: images per micro-batch and process.
            accumulation_steps: micro-batches per step.

        Raises:
            ValueError: the global batch would change.
        """
        if batch_size * accumulation_steps * self._world_size != self.global_batch:
            raise ValueError(
                f"batch_size * accumulation_steps * world_size must stay {self.global_batch}, got "
                f"{batch_size} * {accumulation_steps} * {self._world_size}"
            )
        self._batch_size, self._accumulation_steps = batch_size, accumulation_steps

    def _plan(self, start_step: int, stop_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices [B] and random numbers [B, V, D] of every micro-batch of this process."""
        for step in range(start_step, stop_step):
            indices = self._order.indices(step)
            if self.storage == "workers":
                self._look_ahead(step, first=step == start_step)
            draws = view_draws(self.views, self._seed, step, self.global_batch)
            for number in range(self._accumulation_steps):
                here = micro_batch(self._batch_size, self._world_size, self._rank, number)
                yield indices[here], draws[here]

    def _look_ahead(self, step: int, *, first: bool) -> None:
        """Start fetching the shards that this process reads one window later; at the first step, all shards up to
        then."""
        if self._ahead is None or not isinstance(self._order, ShardOrder):
            return
        parts = [
            micro_batch(self._batch_size, self._world_size, self._rank, number)
            for number in range(self._accumulation_steps)
        ]
        positions = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        later = step + self._order.steps_per_window
        self._ahead.want(self._order.shards_ahead(step if first else later, later + 1, positions))

    def _from_device(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        for indices, draws in self._plan(start_step, stop_step):
            images, sizes = self._choose(indices)
            where = torch.from_numpy(indices)
            crops = [random_crops(draws[:, number], sizes, spec) for number, spec in enumerate(self.views)]
            views = tuple(
                self._view(self._cut(images, crop, spec.plane), crop, sizes, draws[:, number], spec)
                for number, (crop, spec) in enumerate(zip(crops, self.views, strict=True))
            )
            targets = None
            if self._targets is not None:
                targets = read_targets(self.dataset, self._targets, where, crops, sizes, self.views).to(self.device)
            yield Batch(views, where, targets)

    def _choose(self, indices: np.ndarray) -> tuple[Tensor | list[Tensor], np.ndarray]:
        """The given images on the device, and int64 [B, 2] with the height and width of each."""
        if isinstance(self._images, Tensor):
            height, width = self._images.shape[2:]
            return self._images[send(indices, self.device)], np.tile([[height, width]], (len(indices), 1))
        chosen = [self._images[index] for index in indices.tolist()]
        return chosen, np.array([image.shape[1:] for image in chosen])

    def _cut(self, images: Tensor | list[Tensor], crops: Crops, out_size: tuple[int, int]) -> Tensor:
        if isinstance(images, Tensor):
            return crop_batch(images, send(crops.boxes, self.device), send(crops.flips, self.device), out_size)
        cuts = zip(images, crops.boxes.tolist(), crops.flips.tolist(), strict=True)
        return torch.stack(
            [crop_one(image, (box[0], box[1], box[2], box[3]), flip, out_size) for image, box, flip in cuts]
        )

    def _from_workers(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        def jobs() -> Iterator[list[Job]]:
            for indices, draws in self._plan(start_step, stop_step):
                yield [Job(index, row) for index, row in zip(indices.tolist(), draws, strict=True)]

        for prepared in self._workers.work(jobs):
            note_bad(self.dataset, prepared.bad)
            if len(prepared.indices) < self._batch_size:
                raise DataError(
                    f"data.dataset={self.dataset.name}: too many consecutive files cannot be read "
                    f"({len(self.dataset.bad_files)} so far, last reason: {self.dataset.bad_files[-1].reason}); check "
                    "data.data_path with `hjepa data check`"
                )
            views = []
            for number, (spec, images) in enumerate(zip(self.views, prepared.views, strict=True)):
                boxes, flips, sizes = prepared.cuts
                crops = Crops(boxes[:, number], flips[:, number])
                views.append(self._view(unit(images, self.device), crops, sizes, prepared.draws[:, number], spec))
            targets = None if prepared.targets is None else prepared.targets.to(self.device)
            yield Batch(tuple(views), prepared.indices, targets)

    def _view(self, images: Tensor, crops: Crops, sizes: np.ndarray, draws: np.ndarray, spec: ViewSpec) -> View:
        colours = colour_table(draws, spec)
        images = normalise(recolour(images, colours), self._mean, self._std)
        return make_view(images, crops, sizes, colours, spec)


def _storage(dataset: ImageDataset, data: DataConfig) -> Literal["device", "workers"]:
    if data.storage != "auto":
        return data.storage
    decoded = dataset.decoded_bytes
    return "device" if decoded is not None and decoded <= MEMORY_LIMIT else "workers"


def _order(dataset: ImageDataset, data: DataConfig, global_batch: int, seed: int) -> StepOrder | ShardOrder:
    if dataset.shards is None:
        return StepOrder(len(dataset), global_batch, seed)
    return ShardOrder(dataset.shards.numbers, global_batch, seed, lanes=data.shard_lanes, window=data.shard_window)


def _ahead(dataset: ImageDataset) -> Ahead | None:
    pixels = dataset.pixels
    if dataset.shards is None or not dataset.shards.fetched:
        return None
    return Ahead(pixels.blobs) if isinstance(pixels, EncodedPixels) and isinstance(pixels.blobs, ShardBlobs) else None


def _on_device(dataset: ImageDataset, device: torch.device) -> Tensor | list[Tensor]:
    if not isinstance(dataset.pixels, MemoryPixels):
        raise UserError(
            "data.storage=device: the images are not in memory; build the data set with data.storage=device as well"
        )
    images = dataset.pixels.images
    if isinstance(images, Tensor):
        return _portable(images, device)
    return [_portable(image, device) for image in images]


def _portable(images: Tensor, device: torch.device) -> Tensor:
    if device.type == "mps" and images.dtype == torch.uint16:
        # MPS does not support unsigned 16-bit integers.
        images = images.to(torch.float32) * unit_scale(images.dtype)
    return images.to(device)
