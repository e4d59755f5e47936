"""``stl10``: images of 96x96 pixels, 13,000 labelled in ten classes and 100,000 unlabelled (Coates et al., 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hjepa.data.dataset import MemoryPixels, Split
from hjepa.data.listing import Listing
from hjepa.data.sources.download import fetch

if TYPE_CHECKING:
    from hjepa.config import DataConfig


def find(data: DataConfig, split: Split, path: Path, archive: type[Any] | None = None) -> Listing:
    """Read the binary release from ``path``, downloading it (2.6 GB) if missing and ``data.download`` is true.

    The training split is the 5,000 labelled images followed by the 100,000 unlabelled ones, which have the label -1.
    The test split has 8,000 images.

    Args:
        data: the ``data`` section.
        split: ``"train"`` or ``"test"``.
        path: the folder ``stl10_binary``, or its parent folder.
        archive: a subclass of torchvision's class that names a mirror of the archive; torchvision's own if None.

    Raises:
        DataError: the data set is missing or damaged, or the download failed.
    """
    from torchvision.datasets import STL10

    kind = STL10 if archive is None else archive
    root = path.parent if path.name == kind.base_folder else path
    part = "train+unlabeled" if split == "train" else "test"
    loaded = fetch(
        "stl10",
        kind.url,
        root,
        data.download,
        lambda download: kind(str(root), split=part, download=download),
    )
    return Listing(
        MemoryPixels(torch.from_numpy(loaded.data)),
        [f"stl10/{split}/{index}" for index in range(len(loaded.data))],
        torch.from_numpy(loaded.labels).to(torch.int64),
        tuple(loaded.classes),
        root=root,
    )
