"""Images without augmentation, as `hjepa.data.images.preprocess` cuts and normalises them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import ImageDataset
from hjepa.data.images.decode import unit_scale
from hjepa.data.images.preprocess import Preprocess
from hjepa.data.loading.loader import Batch, check_statistics
from hjepa.data.loading.workers import Job, JobSampler, Preparation, centre_rule, job_loader, note_bad, reads_files


class EvalLoader:
    """Evaluation batches, in the order of ``indices``; may be iterated any number of times.

    A file that cannot be read is left out of its batch and counted in ``dataset.bad_files`` (or an error, under
    ``data.bad_images=stop``): go by `Batch.indices`.

    Args:
        dataset: a split.
        indices: int64 ``[M]``, which images; all when None.
        image_size: (H, W).
        mean: per channel, in [0, 1].
        std: per channel.
        batch_size: images per batch; the last one holds what is left.
        num_workers: decoding processes, for images that do not lie in memory.
        device: where batches go.
        pin_memory: page-locked memory for the copies of workers to a GPU.

    Raises:
        UserError: ``mean`` or ``std`` do not have one value per channel.
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
    ) -> None:
        check_statistics(dataset, mean, std)
        self.dataset = dataset
        self.indices = torch.arange(len(dataset)) if indices is None else indices.cpu()
        self.image_size = image_size
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
        for pixels, indices in source:
            yield Batch(self.preprocess.normalise(pixels), indices)

    def _from_memory(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in torch.split(self.indices, self.batch_size):
            yield self.preprocess.cut(images[indices].to(self.device)), indices

    def _from_files(self) -> Iterator[tuple[Tensor, Tensor]]:
        sampler = JobSampler()
        none = np.empty(0)
        sampler.batches = lambda: (
            [Job(index, none) for index in part.tolist()] for part in torch.split(self.indices, self.batch_size)
        )
        loader = job_loader(
            Preparation(self.dataset.pixels, self.image_size, centre_rule, substitute=False),
            sampler,
            # Processes are worth their start for decoding only.
            num_workers=self._num_workers if reads_files(self.dataset) else 0,
            prefetch_factor=2,
            pin_memory=self._pin_memory,
            persistent=False,
        )
        for prepared in loader:
            note_bad(self.dataset, prepared.bad)
            if not len(prepared.indices):
                continue
            images = prepared.images.to(self.device, non_blocking=True)
            if images.dtype == torch.uint8:
                images = images.to(torch.float32).mul_(unit_scale(torch.uint8))
            yield images, prepared.indices


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
        )
    )
