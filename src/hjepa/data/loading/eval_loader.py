"""Load images without augmentation, preprocessed by `hjepa.data.images.preprocess`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import ImageDataset
from hjepa.data.images.crops import Crops
from hjepa.data.images.preprocess import Preprocess
from hjepa.data.loading.assemble import check_statistics, check_targets, make_view, read_targets, unit
from hjepa.data.loading.batch import Batch
from hjepa.data.loading.worker_loader import WorkerLoader
from hjepa.data.loading.workers import Job, Preparation, note_bad, reads_files
from hjepa.data.targets import Target
from hjepa.data.views import centre_view

_Cut = tuple[Tensor, Crops, np.ndarray, Tensor, Target | None]
"""Images, crop boxes, image sizes, indices, targets."""


class EvalLoader:
    """Iterable over evaluation batches in the order of ``indices``; can be iterated repeatedly.

    An unreadable file is left out of its batch and recorded in ``dataset.bad_files``, so match results to images by
    `Batch.indices`. Iteration raises `DataError` for an unreadable file under ``data.bad_images=stop``, and for a
    worker process that dies or stalls.

    Args:
        dataset: a split.
        indices: int64 [M], the images; all if None.
        image_size: (H, W) of the batches, in pixels.
        mean: one value per channel, for pixel values in [0, 1].
        std: one value per channel.
        batch_size: images per batch; the last batch may be smaller.
        num_workers: worker processes for decoding; unused if images are in memory.
        device: device of the batches.
        pin_memory: use page-locked memory for copies from workers to a GPU.
        with_targets: whether batches include the targets.

    Raises:
        UserError: ``mean`` or ``std`` do not have one value per channel, or targets are requested but there are none.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        indices: Tensor | None,
        image_size: tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        num_workers: int = 0,
        device: torch.device,
        pin_memory: bool = False,
        with_targets: bool = False,
    ) -> None:
        check_statistics(dataset, mean, std)
        self._targets = check_targets(dataset, with_targets)
        self.dataset = dataset
        self.indices = torch.arange(len(dataset)) if indices is None else indices.cpu()
        self.image_size = image_size
        self.view = centre_view(image_size)
        self.batch_size = batch_size
        self.device = device
        self.preprocess = Preprocess(image_size, tuple(mean), tuple(std))
        self._num_workers = num_workers
        self._pin_memory = pin_memory and device.type == "cuda"

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        images = self.dataset.images
        source = self._from_files() if images is None else self._from_memory(images)
        for pixels, crops, sizes, indices, targets in source:
            view = make_view(self.preprocess.normalise(pixels), crops, sizes, None, self.view)
            yield Batch((view,), indices, None if targets is None else targets.to(self.device))

    def _from_memory(self, images: Tensor) -> Iterator[_Cut]:
        size = np.array([images.shape[2:]])
        box = np.array([self.preprocess.box(*images.shape[2:])])
        for indices in torch.split(self.indices, self.batch_size):
            crops = Crops(np.repeat(box, len(indices), axis=0), np.zeros(len(indices), dtype=bool))
            sizes = np.repeat(size, len(indices), axis=0)
            targets = None
            if self._targets is not None:
                targets = read_targets(self.dataset, self._targets, indices, [crops], sizes, [self.view])
            yield self.preprocess.cut(images[indices].to(self.device)), crops, sizes, indices, targets

    def _from_files(self) -> Iterator[_Cut]:
        none = np.empty((1, 0))
        workers = WorkerLoader(
            Preparation(self.dataset.pixels, (self.view,), targets=self._targets, substitute=False),
            # Worker processes pay off only if images have to be decoded.
            num_workers=self._num_workers if reads_files(self.dataset) else 0,
            prefetch_factor=2,
            pin_memory=self._pin_memory,
            persistent=False,
        )

        def jobs() -> Iterator[list[Job]]:
            for part in torch.split(self.indices, self.batch_size):
                yield [Job(index, none) for index in part.tolist()]

        for prepared in workers.work(jobs):
            note_bad(self.dataset, prepared.bad)
            if not len(prepared.indices):
                continue
            (images,), (boxes, flips, sizes) = prepared.views, prepared.cuts
            crops = Crops(boxes[:, 0], flips[:, 0])
            yield unit(images, self.device), crops, sizes, prepared.indices, prepared.targets


def eval_batches(
    dataset: ImageDataset,
    indices: Tensor | None,
    image_size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    num_workers: int = 0,
    device: torch.device,
    pin_memory: bool = False,
    with_targets: bool = False,
) -> Iterator[Batch]:
    """One pass over an `EvalLoader` with these arguments."""
    return iter(
        EvalLoader(
            dataset,
            indices,
            image_size,
            mean=mean,
            std=std,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
            pin_memory=pin_memory,
            with_targets=with_targets,
        )
    )
