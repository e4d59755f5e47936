"""Label-free measures of the features of every level, from cell features that arrive batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hjepa.metrics import feature_std, lidar, mean_cosine, rankme

# Parts into which the cells of an image are divided for LiDAR: enough for a scatter within, each still an average.
_PARTS = 4
# A dimension whose standard deviation is below this share of the typical one holds nothing.
_DEAD = 0.01


@dataclass(frozen=True)
class LevelMeasures:
    """What the features of one level are like, without labels.

    Attributes:
        images: number of images.
        width: D, number of dimensions.
        spread: standard deviation over images, root mean square over dimensions, as a share of the root mean square of
            the pooled features; 0 to 1, and 0 if all images have the same features.
        dead: share of dimensions whose standard deviation is below 1 % of the median of all; 0 to 1.
        rank: `hjepa.metrics.rankme` of the pooled features, 0 to D.
        cosine: `hjepa.metrics.mean_cosine` of the pooled features, -1 to 1; None for one image.
        lidar: `hjepa.metrics.lidar` of averages over random parts of the cells, 0 to D; None for one image or one cell.
        position: share of the variance of cell features that the position of the cell explains
            (`hjepa.metrics.position_share`), 0 to 1; None for one image or one cell, and for constant features.
        finite: whether all features are finite. If not, all other measures are None or 0.
    """

    images: int
    width: int
    spread: float
    dead: float
    rank: float
    cosine: float | None
    lidar: float | None
    position: float | None
    finite: bool = True

    @property
    def distance(self) -> float | None:
        """1 - cosine, 0 to 2: how far apart the features of two images are."""
        return None if self.cosine is None else 1 - self.cosine

    @property
    def content(self) -> float | None:
        """1 - position, 0 to 1: share of the variance of cell features that position does not explain."""
        return None if self.position is None else 1 - self.position

    def record(self, level: int) -> dict[str, float]:
        """The measures by the names used in records, such as ``rank/level_0``; those that are None are left out."""
        values = {
            "std": self.spread,
            "dead": self.dead,
            "rank": self.rank,
            "cosine": self.cosine,
            "lidar": self.lidar,
            "position": self.position,
        }
        return {f"{name}/level_{level}": value for name, value in values.items() if value is not None}


@dataclass
class _Level:
    """What is kept of the cell features of one level.

    Attributes:
        pooled: averages over all cells, [b, D] per batch.
        parts: averages over each part of the cells, [b, q, D] per batch; empty for fewer than two cells.
        sums: per position the sum over images, [cells, D] float64.
        squares: sum of all squares.
    """

    pooled: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    sums: Tensor | None = None
    squares: float = 0.0


class Measuring:
    """Collects cell features batch by batch and measures every level.

    Keeps averages only, so that memory does not grow with the number of cells.
    """

    def __init__(self) -> None:
        self._levels: list[_Level] = []

    def add(self, levels: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            levels: cell features of every level, [b, cells, D] each, on any device.
        """
        if not self._levels:
            self._levels = [_Level() for _ in levels]
        for kept, cells in zip(self._levels, levels, strict=True):
            cells = cells.detach().float()
            kept.pooled.append(cells.mean(dim=1).cpu())
            if cells.shape[1] < 2:
                continue
            kept.parts.append(torch.stack([cells[:, part].mean(dim=1) for part in _parts(cells.shape[1])], dim=1).cpu())
            # In float64: the variances are small differences of large sums. Apple's GPUs have none, so on the host.
            summed = cells.cpu().double()
            own = summed.sum(dim=0)
            kept.sums = own if kept.sums is None else kept.sums + own
            kept.squares += float(summed.square().sum())

    def pooled(self, level: int) -> Tensor:
        """Averages over cells, [N, D] float32 on the host."""
        return torch.cat(self._levels[level].pooled)

    def parts(self, level: int) -> Tensor | None:
        """Averages over each of up to four random parts of the cells, the same for all images: [N, q, D] float32 on the
        host. None for a level of one cell."""
        kept = self._levels[level].parts
        return torch.cat(kept) if kept else None

    def measures(self) -> list[LevelMeasures]:
        """The measures of every level.

        Raises:
            ValueError: nothing was added.
        """
        if not self._levels:
            raise ValueError("no features to measure; add at least one batch")
        return [self._measure(number) for number in range(len(self._levels))]

    def _measure(self, number: int) -> LevelMeasures:
        kept, pooled = self._levels[number], self.pooled(number)
        images, width = pooled.shape
        if not bool(torch.isfinite(pooled).all()):
            return LevelMeasures(images, width, 0.0, 1.0, 0.0, None, None, None, finite=False)
        std = feature_std(pooled)
        size = float(pooled.double().square().mean().sqrt())
        typical = float(std.median())
        several = images > 1
        return LevelMeasures(
            images=images,
            width=width,
            spread=float(std.square().mean().sqrt()) / size if size > 0 else 0.0,
            dead=float((std < _DEAD * typical).double().mean()) if typical > 0 else 1.0,
            rank=rankme(pooled),
            cosine=mean_cosine(pooled) if several else None,
            lidar=lidar(torch.cat(kept.parts)) if several and kept.parts else None,
            position=_position(kept, images) if several and kept.parts else None,
        )


def _parts(cells: int) -> list[Tensor]:
    """Cells of each part: the same random division for all images, so that what depends on position varies within."""
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(cells))
    return list(order.tensor_split(min(_PARTS, cells)))


def _position(kept: _Level, images: int) -> float | None:
    """`hjepa.metrics.position_share` from sums instead of all cell features."""
    assert kept.sums is not None
    cells = len(kept.sums)
    mean = kept.sums / images
    means = float(mean.square().sum())
    within = (kept.squares - images * means) / ((images - 1) * cells)
    total = (kept.squares - images * cells * float(mean.mean(dim=0).square().sum())) / (images * cells - 1)
    if total <= 1e-12 * kept.squares / (images * cells):
        return None
    return min(1.0, max(0.0, 1 - within / total))
