"""Images for figures, of a split or given as files: normalised for the model and converted for display."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hjepa.data import eval_batches
from hjepa.errors import DataError
from hjepa.runtime.random import Purpose, stream
from hjepa.visualization.figures.style import Picture

if TYPE_CHECKING:
    from hjepa.data import Batch, ImageDataset, Split, Splits
    from hjepa.runs.load import TrainedRun

_LARGEST_CLASS = 24


class ImageSource:
    """Images that figures show.

    Args:
        run: the run, for size and normalisation.
        dataset: the images.
        order: int64 [N], rows of the data set in the order in which figures use them.
        num_workers: worker processes for decoding.
        what: the images in a few words, for captions.

    Attributes:
        dataset, order, what: as given.
        size: height and width of the encoder's input.
        channels: input channels.
    """

    def __init__(self, run: TrainedRun, dataset: ImageDataset, order: Tensor, *, num_workers: int, what: str) -> None:
        self.dataset = dataset
        self.order = order
        self.what = what
        self.size = run.encoder.geometry.height_width
        self.channels = run.channels
        self._num_workers = num_workers
        self._mean, self._std = run.mean, run.std
        self._device = run.device
        self._gain: float | None = None

    @property
    def labels(self) -> Tensor | None:
        """int64 [N], -1 for an image without a label; None if no image has one."""
        return self.dataset.labels

    def label_of(self, row: int) -> int | None:
        """The class of an image; None if unknown."""
        label = -1 if self.labels is None else int(self.labels[row])
        return None if label < 0 else label

    def class_name(self, label: int | None) -> str:
        """The name of a class, shortened to fit under an image; empty for None."""
        if label is None:
            return ""
        names = self.dataset.class_names
        name = names[label] if names is not None and label < len(names) else str(label)
        return name if len(name) <= _LARGEST_CLASS else name[: _LARGEST_CLASS - 1] + "…"

    def names(self, rows: Tensor) -> list[str]:
        """A short name for each row: its class, or nothing."""
        return [self.class_name(self.label_of(row)) for row in rows.tolist()]

    def batches(self, rows: Tensor, batch_size: int = 64, size: tuple[int, int] | None = None) -> Iterator[Batch]:
        """Batches of normalised images [b, C, H, W] with their rows [b]; unreadable files are left out. The size is that
        of the encoder's input unless given."""
        return eval_batches(
            self.dataset,
            rows,
            size or self.size,
            mean=self._mean,
            std=self._std,
            batch_size=batch_size,
            num_workers=self._num_workers,
            device=self._device,
        )

    def normalised(self, rows: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images [n, C, H, W] of the given rows, and the rows that could be read, int64 [n].

        Args:
            rows: int64, which images.
            size: height and width; those of the encoder's input if None.

        Raises:
            DataError: none of them can be read.
        """
        parts = list(self.batches(rows, size=size))
        if not parts:
            raise self.unreadable()
        return torch.cat([p.images for p in parts]), torch.cat([p.indices for p in parts])

    def unreadable(self) -> DataError:
        """The error for a split without readable images."""
        return DataError(
            f"data.dataset={self.dataset.name}: no readable image in the {self.dataset.split} split; check data.data_path"
        )

    def pictures(self, normalised: Tensor) -> list[Picture]:
        """Convert normalised images [n, C, H, W] for display, uint8 [H, W, 3]; `display_note` describes any changes."""
        mean = torch.tensor(self._mean).view(-1, 1, 1)
        std = torch.tensor(self._std).view(-1, 1, 1)
        values = three_channels(normalised.float().cpu() * std + mean)
        if self._gain is None:
            bright = float(torch.quantile(values.flatten()[:: max(1, values.numel() // 100_000)], 0.99))
            # 16-bit sensors often use only the lowest part of the range.
            self._gain = 1 / bright if 0 < bright < 0.35 else 1.0
        bytes_ = (values * self._gain * 255).round().clamp(0, 255).to(torch.uint8)
        return [np.ascontiguousarray(p.permute(1, 2, 0).numpy()) for p in bytes_]

    def display_note(self) -> str:
        """How images were changed for display, as a sentence; empty if they were not."""
        notes = []
        if self.channels == 2:
            notes.append("the two channels are shown as red and green")
        elif self.channels > 3:
            notes.append(f"the first three of {self.channels} channels are shown as red, green and blue")
        if self._gain is not None and self._gain > 1:
            notes.append(f"brightened {self._gain:.2g} times for display")
        text = "; ".join(notes)
        return text[:1].upper() + text[1:] + "." if text else ""


class SplitImages(ImageSource):
    """Images of a split, in a random order drawn from the run's seed.

    Args:
        run: the run.
        splits: its data set, with the channels of the run.
        split: the split to show.

    Attributes:
        order: int64 [N], rows in random order, at most ``evaluation.test_images`` of the run, labelled images first.

    Raises:
        DataError: the images cannot be found or read.
    """

    def __init__(self, run: TrainedRun, splits: Splits, split: Split = "test") -> None:
        dataset = splits.of(split)
        order = torch.from_numpy(stream(Purpose.FIGURES, run.config.seed).permutation(len(dataset)))
        what = "training images" if split == "train" else "held-out images"
        super().__init__(run, dataset, order, num_workers=splits.data.num_workers, what=what)
        if self.labels is not None:
            self.order = order[torch.argsort((self.labels[order] < 0).to(torch.int8), stable=True)]
        self.order = self.order[: run.config.evaluation.test_images]


def three_channels(images: Tensor) -> Tensor:
    """Convert [n, C, H, W] to [n, 3, H, W]: one channel as grey, of more than three the first three."""
    channels = images.shape[1]
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    return F.pad(images, [0, 0, 0, 0, 0, 3 - channels]) if channels < 3 else images[:, :3]
