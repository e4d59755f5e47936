"""The pictures that a figure shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from hjepa.visualization.figures.style import Picture

if TYPE_CHECKING:
    from hjepa.visualization.split_images import ImageSource


@dataclass(frozen=True)
class Shown:
    """Pictures from one source.

    Attributes:
        images: the source.
        rows: int64 [n], their rows in it.
        normalised: [n, C, H, W], at the size of the encoder's input.
    """

    images: ImageSource
    rows: Tensor
    normalised: Tensor

    @classmethod
    def first(cls, images: ImageSource, count: int) -> Shown:
        """The first readable ones of a source. Raises `DataError` if none of them can be read."""
        normalised, rows = images.normalised(images.order[:count])
        return cls(images, rows, normalised)

    def __len__(self) -> int:
        return len(self.rows)

    def head(self, count: int) -> Shown:
        """The first of these pictures."""
        return Shown(self.images, self.rows[:count], self.normalised[:count])

    @property
    def pictures(self) -> list[Picture]:
        """For display, uint8 [H, W, 3] each."""
        return self.images.pictures(self.normalised)

    @property
    def names(self) -> list[str]:
        """Class or file name of each picture; empty if it has none."""
        return self.images.names(self.rows)

    @property
    def what(self) -> str:
        """The pictures in a few words, for captions: "held-out images"."""
        return self.images.what
