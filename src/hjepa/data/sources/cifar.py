"""``cifar10`` and ``cifar100``: 60,000 images of 32x32 pixels in 10 or 100 classes (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hjepa.data.dataset import MemoryPixels, Split
from hjepa.data.listing import Listing
from hjepa.data.sources.download import fetch
from hjepa.errors import DataError

if TYPE_CHECKING:
    from hjepa.config import DataConfig


def find(data: DataConfig, split: Split, path: Path, archive: type[Any] | None = None) -> Listing:
    """Read the binary release from ``path``, downloading it (170 MB) if missing and ``data.download`` is true.

    Args:
        data: the ``data`` section.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        path: the folder ``cifar-10-batches-py`` (``cifar-100-python``), or its parent folder.
        archive: a subclass of torchvision's class that names a mirror of the archive; torchvision's own if None.

    Raises:
        DataError: the data set is missing or damaged, or the download failed.
    """
    import torchvision

    default = torchvision.datasets.CIFAR10 if data.dataset == "cifar10" else torchvision.datasets.CIFAR100
    kind = default if archive is None else archive
    root = path.parent if path.name == kind.base_folder else path
    if (root / kind.base_folder).exists() or not _has_parquet(root):
        loaded = fetch(
            data.dataset,
            kind.url,
            root,
            data.download,
            lambda download: kind(str(root), train=split == "train", download=download),
        )
    else:
        raise DataError(
            f"data.dataset={data.dataset}: {root} contains Parquet files, not the binary release; "
            "set data.dataset=parquet to read them"
        )
    images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
    return Listing(
        MemoryPixels(images),
        [f"{data.dataset}/{split}/{index}" for index in range(len(images))],
        torch.tensor(loaded.targets, dtype=torch.int64),
        tuple(loaded.classes),
        root=root,
    )


def _has_parquet(root: Path) -> bool:
    return any(root.glob("*.parquet"))
