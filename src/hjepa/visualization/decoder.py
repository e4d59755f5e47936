"""A small decoder from frozen features of a cell to the pixels of this cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hjepa.config.grid import plane

if TYPE_CHECKING:
    from hjepa.config import Geometry

_HIDDEN = 256
_STEPS = 300
_CELLS = 512
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.05
# Training cells per level: a level takes a second or two.
_MOST_CELLS = 60_000


@dataclass(frozen=True)
class Decoder:
    """A two-layer network from the features of a cell to its pixels. Sees one cell alone, so that nothing in the decoded
    picture comes from neighbouring cells.

    Attributes:
        network: [..., D] -> [..., C * height * width].
        box: height and width of a cell in pixels.
        grid: rows and columns of cells.
        channels: C.
    """

    network: nn.Module
    box: tuple[int, int]
    grid: tuple[int, int]
    channels: int

    @torch.inference_mode()
    def cells(self, features: Tensor) -> Tensor:
        """Decode features [..., D] to pixels [..., C, height, width], normalised as the encoder's input."""
        pixels: Tensor = self.network(features)
        return pixels.reshape(*features.shape[:-1], self.channels, *self.box)

    def whole(self, features: Tensor) -> Tensor:
        """Decode all cells of pictures [n, cells, D] to [n, C, H, W]."""
        (rows, columns), (height, width) = self.grid, self.box
        n, channels = len(features), self.channels
        cells = self.cells(features).reshape(n, rows, columns, channels, height, width)
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, rows * height, columns * width)


def cut_cells(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """The pixels of every cell, [n, C, H, W] -> [n, cells, C, height, width], row-major."""
    n, channels, height, width = images.shape
    rows, columns = grid
    split = images.reshape(n, channels, rows, height // rows, columns, width // columns)
    return split.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def train_decoder(
    features: Tensor, images: Tensor, geometry: Geometry, level: int, seed: int, steps: int = _STEPS
) -> Decoder:
    """Fit a decoder of one level by squared error of normalised pixels.

    Args:
        features: [n, cells, D], frozen target features.
        images: [n, C, H, W], normalised.
        geometry: sizes of the model.
        level: the level.
        seed: of initial weights and batches.
        steps: of AdamW, with a cosine schedule.
    """
    grid = plane(geometry.level_grid(level))
    targets = cut_cells(images.float(), grid)
    box = targets.shape[-2], targets.shape[-1]
    x, y = features.float().flatten(0, 1), targets.flatten(2).flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    if len(x) > _MOST_CELLS:
        chosen = torch.randperm(len(x), generator=generator)[:_MOST_CELLS]
        x, y = x[chosen], y[chosen]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(x.shape[1], _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, y.shape[1]))
    last = network[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        # Starts at the mean cell, so that few samples cannot make it worse than that.
        last.weight.mul_(0.1)
        last.bias.copy_(y.mean(dim=0))
    optimiser = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    # Whole-image levels have one cell per image; more than 20 passes over few cells would only learn them by heart.
    steps = min(steps, max(50, 20 * len(x) // _CELLS))
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(x), (min(_CELLS, len(x)),), generator=generator)
            loss = nn.functional.mse_loss(network(x[rows]), y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return Decoder(network.eval().requires_grad_(False), box, grid, images.shape[1])


def explained(decoded: Tensor, true: Tensor, mean: Tensor) -> float:
    """Share of the variance of pixels that a decoding explains: 1 is exact, 0 is as good as the mean picture.

    Args:
        decoded, true: of the same shape, the first axis are pictures.
        mean: broadcast to them, for example the mean of other pictures.
    """
    error, spread = (true - decoded).square().sum(), (true - mean).square().sum()
    return float(1 - error / spread) if float(spread) > 0 else 0.0
