"""``shapes``: the embedded default, drawn on the spot by `hjepa.data.shapes`. No file, no network."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hjepa.data.dataset import MemoryPixels, Split
from hjepa.data.listing import Listing, subset_size
from hjepa.data.shapes import CLASSES, VERSION, generate
from hjepa.errors import UserError

if TYPE_CHECKING:
    from hjepa.config import DataConfig

COUNTS = {"train": 20_000, "test": 4_000}
DEFAULT_SIZE = 32


def find(data: DataConfig, split: Split, path: Path) -> Listing:  # noqa: ARG001  the set has no path
    """Draw a split at ``data.image_size`` (32 when not given) with ``data.channels`` channels (3).

    The images belong to the version of the set, not to the seed of the run: paired runs see the same ones. They come
    in random order with balanced classes, so that ``data.subset`` draws no more than it needs: the first ones.

    Raises:
        UserError: a size below 8 pixels.
    """
    size = data.image_size or DEFAULT_SIZE
    height, width = (size, size) if isinstance(size, int) else size
    count = COUNTS[split]
    # With a choice of classes the subset counts images of those classes, which are known only afterwards.
    subset_done = split == "train" and data.subset is not None and data.classes_file is None
    if subset_done and data.subset is not None:
        count = subset_size(count, data.subset)
    try:
        images, labels = _draw(count, height, width, split, data.channels or 3)
    except ValueError as error:
        raise UserError(f"data.dataset=shapes: {error}") from None
    return Listing(
        MemoryPixels(images),
        [f"shapes/{split}/{index}" for index in range(count)],
        labels,
        CLASSES,
        subset_done=subset_done,
        description=f"shapes v{VERSION}, {height}x{width}",
    )


@lru_cache(maxsize=2)  # a run asks for each split more than once: to train, to evaluate, to report
def _draw(count: int, height: int, width: int, split: str, channels: int) -> tuple[Tensor, Tensor]:
    return generate(count, image_size=(height, width), split=split, channels=channels)
