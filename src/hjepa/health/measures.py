"""Label-free measures of the features of every level, from cell features that arrive batch by batch."""

from __future__ import annotations

import functools
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


def record_of(levels: Sequence[LevelMeasures]) -> dict[str, float]:
    """The measures of all levels by the names used in records."""
    return {name: value for number, level in enumerate(levels) for name, value in level.record(number).items()}


@dataclass
class _Level:
    """What is kept of the cell features of one level.

    Attributes:
        pooled: averages over all cells, [b, D] per batch.
        parts: averages over each part of the cells, [b, q, D] per batch; empty for fewer than two cells.
        shift: per position the mean of the first batch, [cells, D] on the device of the features; None before it.
        sums: per position the sum over images of the difference to `shift`, [cells, D] float64.
        squares: sum of the squares of these differences.
    """

    pooled: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    shift: Tensor | None = None
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
            _add(kept, cells.detach().float())

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


def _add(kept: _Level, cells: Tensor) -> None:
    """Add cell features [b, cells, D] of one level. Only averages leave the device."""
    kept.pooled.append(cells.mean(dim=1).cpu())
    if cells.shape[1] < 2:
        return
    # One matrix product, which is faster than gathering the cells of each part.
    kept.parts.append((_averages(cells.shape[1]).to(cells.device) @ cells).cpu())
    if kept.shift is None:
        kept.shift = cells.mean(dim=0)
    # Differences to a mean are small where the variance is, so that float32 loses nothing of it.
    rest = cells - kept.shift
    own = rest.sum(dim=0).cpu().double()
    kept.sums = own if kept.sums is None else kept.sums + own
    kept.squares += float(rest.square_().sum())


@functools.cache
def _averages(cells: int) -> Tensor:
    """Matrix [q, cells] that averages the cells of each part.

    The same random division for all images, so that what depends on position varies within an image.
    """
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(cells))
    parts = order.tensor_split(min(_PARTS, cells))
    matrix = torch.zeros(len(parts), cells)
    for row, part in zip(matrix, parts, strict=True):
        row[part] = 1 / len(part)
    return matrix


def _position(kept: _Level, images: int) -> float | None:
    """`hjepa.metrics.position_share` from sums instead of all cell features."""
    assert kept.sums is not None
    assert kept.shift is not None
    moved = kept.sums / images
    means = kept.shift.cpu().double() + moved
    cells = len(means)
    inside = max(0.0, kept.squares - images * float(moved.square().sum()))
    between = images * float((means - means.mean(dim=0)).square().sum())
    within, total = inside / ((images - 1) * cells), (inside + between) / (images * cells - 1)
    if total <= 1e-12 * float(means.square().sum()) / cells:
        return None
    return min(1.0, max(0.0, 1 - within / total))
