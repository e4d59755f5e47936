"""Maps of classes in image files: palette or greyscale PNG, one value per pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hjepa.data.images.decode import UnreadableImageError
from hjepa.data.targets import TargetKind


@dataclass(frozen=True)
class MaskFiles:
    """One file of classes per image, as `hjepa.data.Targets`.

    A palette image (as of VOC) is read as its indices, not its colours.
    """

    root: Path
    """Folder that the names are relative to."""
    names: tuple[str, ...]
    """Paths with forward slashes."""
    shift: int = 0
    """Subtracted from every value; values that become negative are ignored, as those of ``ignored``."""
    ignored: int = 255
    """Value of ignored pixels in the files and in the maps."""

    @property
    def kind(self) -> TargetKind:
        """Maps of classes."""
        return "dense"

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Tensor:
        """Classes int32 [h, w] of one image. Raises `UnreadableImageError`."""
        try:
            with Image.open(self.root / self.names[index]) as image:
                values = np.array(image).astype(np.int32)
        except FileNotFoundError:
            raise UnreadableImageError(f"its mask {self.names[index]} is missing") from None
        except (OSError, UnidentifiedImageError):
            raise UnreadableImageError(f"its mask {self.names[index]} cannot be read") from None
        if values.ndim != 2:
            raise UnreadableImageError(
                f"its mask {self.names[index]} has colours; expected one value per pixel (palette or greyscale)"
            )
        shifted = np.where(values == self.ignored, self.ignored, values - self.shift)
        return torch.from_numpy(np.where(shifted < 0, self.ignored, shifted).astype(np.int32))

    def select(self, rows: Tensor) -> MaskFiles:
        """The maps of the given rows (int64), in that order."""
        return MaskFiles(self.root, tuple(self.names[row] for row in rows.tolist()), self.shift, self.ignored)
