"""The worker path: images decoded and cropped one by one, in other processes where there are any.

Workers hold no random state. What to do with an image (its index, box and mirror draws) is decided by the sampler in
the main process from (seed, step, position), so that their number changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hjepa.data.dataset import BadFile, EncodedPixels, ImageDataset, Pixels, UnreadableStretchError
from hjepa.data.images.crops import Crops, centre_boxes
from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.images.resample import Box, crop_one, crop_one_8_bit, crop_reduced, largest_reduction

CropRule = Callable[[np.ndarray, np.ndarray, tuple[int, int]], Crops]
"""(draws ``[B, D]``, sizes ``[B, 2]``, output size) to `Crops`; must be picklable."""

# A run of this many unreadable files in a row is no accident.
_SUBSTITUTES = 100


class Job(NamedTuple):
    """One image to prepare."""

    row: int
    """Its index in the data set."""
    draws: np.ndarray
    """float64 ``[D]``, empty for evaluation."""


class Prepared(NamedTuple):
    """A batch as workers hand it over."""

    images: Tensor
    """``[B, C, H, W]``: uint8, or float32 in [0, 1] where a source has more than 8 bits."""
    indices: Tensor
    """int64 ``[B]``, of the images really used."""
    draws: Tensor
    """float64 ``[B, D]``."""
    bad: list[tuple[int, str]]
    """Index and reason of every file met that cannot be read."""


class Preparation(Dataset[tuple[Tensor | None, int, np.ndarray, list[tuple[int, str]]]]):
    """Decodes and cuts single images.

    Args:
        pixels: the images.
        out_size: (H, W).
        rule: how to cut.
        substitute: whether the next readable image takes the place of one that cannot be read.
        reduce: whether JPEG files are decoded smaller where the crop is shrunk that much anyway.
    """

    def __init__(
        self, pixels: Pixels, out_size: tuple[int, int], rule: CropRule, *, substitute: bool, reduce: bool = False
    ) -> None:
        self.pixels = pixels
        self.out_size = out_size
        self.rule = rule
        self.substitute = substitute
        self.reduce = reduce

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, job: Job) -> tuple[Tensor | None, int, np.ndarray, list[tuple[int, str]]]:
        bad: list[tuple[int, str]] = []
        index = job.row
        for _ in range(min(_SUBSTITUTES, len(self)) if self.substitute else 1):
            try:
                image = self._read_and_cut(index, job.draws)
            except UnreadableImageError as error:
                bad.append((index, str(error)))
                index = (index + (error.length if isinstance(error, UnreadableStretchError) else 1)) % len(self)
                continue
            return image, index, job.draws, bad
        return None, job.row, job.draws, bad

    def _read_and_cut(self, index: int, draws: np.ndarray) -> Tensor:
        """8-bit images stay so: a quarter of the memory between processes, half a grey level of rounding."""
        plan = _Plan(self.rule, draws, self.out_size)
        if isinstance(self.pixels, EncodedPixels):
            image, _, reduction = self.pixels.read_for_crop(index, plan.reduction if self.reduce else None)
        else:
            image, reduction = self.pixels.read(index), 1
        if reduction > 1:
            return crop_reduced(image, reduction, plan.box, plan.flip, self.out_size)
        plan.make(*image.shape[1:])
        cut = crop_one_8_bit if image.dtype == torch.uint8 else crop_one
        return cut(image, plan.box, plan.flip, self.out_size)


class _Plan:
    """How one image is cut, made once when its size is known, which may be before it is decoded."""

    def __init__(self, rule: CropRule, draws: np.ndarray, out_size: tuple[int, int]) -> None:
        self._rule, self._draws, self._out_size = rule, draws, out_size
        self._made_for: tuple[int, int] | None = None
        self.box: Box = (0, 0, 0, 0)
        self.flip = False

    def make(self, height: int, width: int) -> None:
        if self._made_for == (height, width):
            return
        boxes, flips = self._rule(self._draws[None], np.array([[height, width]]), self._out_size)
        top, left, box_height, box_width = boxes[0].tolist()
        self.box, self.flip = (top, left, box_height, box_width), bool(flips[0])
        self._made_for = height, width

    def reduction(self, height: int, width: int) -> int:
        self.make(height, width)
        return largest_reduction(self.box, self._out_size)


def collate(items: list[tuple[Tensor | None, int, np.ndarray, list[tuple[int, str]]]]) -> Prepared:
    """Stack what could be read."""
    bad = [entry for item in items for entry in item[3]]
    read = [(image, index, draws) for image, index, draws, _ in items if image is not None]
    images = [image for image, _, _ in read]
    if len({image.dtype for image in images}) > 1:
        images = [image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image for image in images]
    return Prepared(
        torch.stack(images) if images else torch.empty(0),
        torch.tensor([index for _, index, _ in read], dtype=torch.int64),
        torch.from_numpy(np.stack([draws for _, _, draws in read])) if read else torch.empty(0, 0),
        bad,
    )


def no_jobs() -> Iterator[list[Job]]:
    """Nothing to do."""
    return iter(())


class JobSampler(Sampler[list[Job]]):
    """Hands out the lists of jobs of whatever was asked for last; can start anywhere."""

    def __init__(self) -> None:
        self.batches: Callable[[], Iterator[list[Job]]] = no_jobs
        self._running: Iterator[list[Job]] | None = None

    def __iter__(self) -> Iterator[list[Job]]:
        self._running = self.batches()
        return self._running

    def forget(self) -> None:
        """Let go of the jobs in hand and of whatever they refer to."""
        self.batches = no_jobs
        if isinstance(self._running, Generator):
            self._running.close()
        self._running = None


def centre_rule(draws: np.ndarray, sizes: np.ndarray, out_size: tuple[int, int]) -> Crops:
    """The evaluation view: the largest centred box, never mirrored."""
    return Crops(centre_boxes(sizes, out_size), np.zeros(len(draws), dtype=bool))


def job_loader(
    preparation: Preparation,
    sampler: JobSampler,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    persistent: bool,
    timeout: float = 0,
) -> DataLoader[Any]:
    """A `DataLoader` over jobs. Draws nothing from the global generator."""
    return DataLoader(
        preparation,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=persistent and num_workers > 0,
        pin_memory=pin_memory,
        timeout=timeout if num_workers else 0,
        generator=torch.Generator().manual_seed(0),
    )


def note_bad(dataset: ImageDataset, bad: list[tuple[int, str]]) -> None:
    """Count files that a worker could not read. Raises `DataError` under the policy ``stop``."""
    for index, reason in bad:
        dataset.note_bad(BadFile(dataset.identifiers[index], reason))


def reads_files(dataset: ImageDataset) -> bool:
    """Whether images are decoded on every read, so that worker processes help."""
    return isinstance(dataset.pixels, EncodedPixels)
