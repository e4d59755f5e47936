"""``digits``: 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn; needs no download.

Optical Recognition of Handwritten Digits, Alpaydin and Kaynak, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hjepa.data.dataset import MemoryPixels, Split
from hjepa.data.listing import Listing

if TYPE_CHECKING:
    from hjepa.config import DataConfig


def find(data: DataConfig, split: Split, path: Path) -> Listing:  # noqa: ARG001  one set, split by the seed
    """List all digits, greyscale, with values 0 to 16 scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    return Listing(
        MemoryPixels(images),
        [f"digits/{index}" for index in range(len(images))],
        torch.from_numpy(digits.target.astype(np.int64)),
        tuple(str(digit) for digit in range(10)),
        whole=True,
        description="digits, 8x8",
    )
