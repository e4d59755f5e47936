"""Draw masks for a batch: with fixed token counts, reproducibly, without a loop over images.

The steps for one batch:

1. target blocks of the coarsest level are drawn on the grid of its cells, so that coarse cells are hidden as a whole;
2. exactly ``n`` cells are hidden: usually those of the blocks, less a few at random that are neither visible nor
   predicted; if the blocks overlap much, some cells outside them are added;
3. finer levels predict the cells inside (`multiblock`, `random`), or those of smaller blocks nested in the large ones
   (`hierarchical`);
4. a level of the whole image (stride 0) always predicts its single cell;
5. the context is a random choice of fixed size among the tokens inside the context block(s) and outside all targets.

Context and targets are therefore disjoint by construction. The fixed counts are low quantiles of the number of cells
that the configured blocks cover, measured once on separate draws. Nothing depends on the batch size: the random
numbers of an image come from (seed, step, position in the global batch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hjepa.config import Grid, MaskingConfig, PerAxis
from hjepa.config.grid import by, canonical, cells, per_axis
from hjepa.errors import UserError
from hjepa.masking.draw import (
    RANDOM_BITS,
    Box,
    block_axes,
    choose,
    cover,
    draw_blocks,
    indices,
    place,
    randoms_per_block,
)
from hjepa.masking.masks import Masks
from hjepa.runtime.random import Purpose, philox_key

# Number of draws to calibrate the fixed counts, and the share of draws whose blocks may cover fewer cells.
_CALIBRATION_IMAGES = 2048
_SHORT = 0.25

Bits = NDArray[np.uint32]
# The chosen cells, and all cells inside the blocks, [B, cells] each.
Hidden = tuple[NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True)
class TokenCounts:
    """Tokens per image and mask set, constant over a run.

    Attributes:
        context: tokens that the context encoder sees.
        targets: cells predicted, per level.
        hidden: tokens of the finest grid that at least one level predicts.
    """

    context: int
    targets: tuple[int, ...]
    hidden: int


class MaskSampler:
    """Draws context and target masks.

    Args:
        config: the ``masking`` section.
        grid: tokens along one axis (a signal), two (rows and columns) or three (time, rows and columns).
        strides: stride of each level, finest first, for all axes or one per axis; each divides the next. The last may
            be 0, the whole image.
        seed: seed of the run.

    Raises:
        UserError: the grid is too small for the configured blocks; the message says what would fit.
    """

    def __init__(self, config: MaskingConfig, grid: Grid, strides: Sequence[PerAxis] = (1,), *, seed: int = 0) -> None:
        self.config = config
        self.grid = grid
        self.strides = tuple(canonical(per_axis(stride, len(grid))) for stride in strides if stride)
        self.whole = len(self.strides) < len(strides)
        self.seed = seed
        self._coarse = self.strides[-1]
        self._coarse_grid = cells(grid, self._coarse)
        self._tokens = math.prod(grid)
        self._cells = math.prod(self._coarse_grid)
        self._nested = config.strategy == "hierarchical" and len(self.strides) > 1
        self._local = self._calibrate()

    def __call__(self, step: int, positions: range | int) -> Masks:
        """Masks of one batch.

        Args:
            step: optimiser step.
            positions: positions in the global batch, as a contiguous range (or a count from 0).

        Returns:
            `Masks` with ``sets_per_image * len(positions)`` rows.
        """
        positions = range(positions) if isinstance(positions, int) else positions
        sets = self.config.sets_per_image
        bits = _random_bits(Purpose.MASKS, self.seed, step, positions, self._randoms * sets)
        # [B, K * R] -> [K * B, R]: set by set
        bits = bits.reshape(len(positions), sets, self._randoms).swapaxes(0, 1).reshape(-1, self._randoms)
        parts = self._split(bits)
        counts = self._local
        hidden, boxes = self._hidden_cells(parts, counts.targets[-1], scattered=self.config.strategy == "random")
        targets = self._level_targets(parts, hidden, boxes, counts.targets)
        preference = self._context_preference(parts, hidden)
        context = indices(choose(preference, parts["tokens"], counts.context), counts.context)
        if self.whole:
            targets.append(np.zeros((len(context), 1), dtype=np.int64))
        return Masks(
            context=torch.from_numpy(context),
            targets=tuple(torch.from_numpy(t) for t in targets),
            groups=self.groups,
            sets_per_image=sets,
        )

    @property
    def counts(self) -> TokenCounts:
        """Tokens per image and mask set."""
        local = self._local
        return TokenCounts(local.context, (*local.targets, 1), local.hidden) if self.whole else local

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Levels that predict the same cells."""
        whole = ((len(self.strides),),) if self.whole else ()
        if self._nested:
            return (*((level,) for level in range(len(self.strides))), *whole)
        by_stride: dict[PerAxis, list[int]] = {}
        for level, stride in enumerate(self.strides):
            by_stride.setdefault(stride, []).append(level)
        return (*(tuple(levels) for levels in by_stride.values()), *whole)

    # -- random numbers ------------------------------------------------------------------------------------------

    @property
    def _randoms(self) -> int:
        """Random numbers per image and set; constant, so that the streams of images never shift."""
        blocks = (self.config.num_masks + self.config.num_context_masks) * randoms_per_block(len(self.grid))
        nested = self.config.num_masks * len(self.grid) * (len(self.strides) - 1) if self._nested else 0
        fine = self._tokens * (len(self.strides) - 1) if self._nested else 0
        return blocks + nested + self._cells + self._tokens + fine

    def _split(self, bits: Bits) -> dict[str, Bits]:
        c = self.config
        sizes = {
            "targets": c.num_masks * randoms_per_block(len(self.grid)),
            "context": c.num_context_masks * randoms_per_block(len(self.grid)),
            "cells": self._cells,
            "tokens": self._tokens,
        }
        if self._nested:
            sizes["nested"] = c.num_masks * len(self.grid) * (len(self.strides) - 1)
            sizes["fine"] = self._tokens * (len(self.strides) - 1)
        parts = np.split(bits, np.cumsum(list(sizes.values()))[:-1], axis=1)
        return dict(zip(sizes, parts, strict=True))

    # -- the steps -----------------------------------------------------------------------------------------------

    def _cover_targets(self, parts: dict[str, Bits]) -> tuple[NDArray[np.bool_], list[Box]]:
        """Cells of the coarsest grid inside target blocks [B, cells], and the blocks of every level."""
        c = self.config
        u = _uniform(parts["targets"]).reshape(len(parts["targets"]), c.num_masks, -1)
        growth = c.level_growth ** (len(self.strides) - 1) if self._nested else 1.0
        scale = (c.mask_scale[0] * growth, c.mask_scale[1] * growth)
        outer = draw_blocks(u, self._coarse_grid, scale, c.aspect_ratio)
        boxes: list[Box] = [outer]
        if self._nested:
            inside = _uniform(parts["nested"]).reshape(-1, len(self.strides) - 1, c.num_masks, len(self.grid))
            for i, level in enumerate(reversed(range(len(self.strides) - 1))):
                boxes.insert(0, self._shrink(boxes[0], level, inside[:, i]))
        return cover(outer, self._coarse_grid), boxes

    def _shrink(self, box: Box, level: int, u: NDArray[np.float32]) -> Box:
        """A smaller block somewhere inside a block of the next coarser level, in cells of this level."""
        ratio = self._ratio(self.strides[level + 1], self.strides[level])
        starts, sizes = box.starts * ratio, box.sizes * ratio
        moving = block_axes(self._coarse_grid)
        inner = sizes.copy()
        for axis in moving:
            side = self.config.level_growth ** (-1 / len(moving))
            inner[..., axis] = np.maximum(1, np.rint(sizes[..., axis] * side))
        return Box(starts + place(u, sizes - inner), inner)

    def _hidden_cells(self, parts: dict[str, Bits], count: int, *, scattered: bool) -> tuple[Hidden, list[Box]]:
        """Exactly ``count`` hidden cells of the coarsest grid per image, and all cells of the blocks."""
        covered, boxes = self._cover_targets(parts)
        if scattered:
            covered = np.zeros_like(covered)
        return (choose((~covered).view(np.uint8), parts["cells"], count), covered), boxes

    def _level_targets(
        self, parts: dict[str, Bits], hidden: Hidden, boxes: list[Box], counts: Sequence[int]
    ) -> list[NDArray[np.int64]]:
        """Target indices of every level, finest first; levels with equal cells share one array."""
        coarse = hidden[0]
        by_stride: dict[PerAxis, NDArray[np.int64]] = {}
        targets: list[NDArray[np.int64]] = []
        for level, stride in enumerate(self.strides):
            last = level == len(self.strides) - 1
            if self._nested and not last:
                allowed = self._refine(coarse, stride)
                inside = cover(boxes[level], cells(self.grid, stride))
                # prefer hidden cells in the small block, then other hidden cells; never cells that may be visible
                preference = np.where(allowed, np.where(inside, 0, 1), 2).astype(np.uint8)
                start = level * self._tokens
                random = parts["fine"][:, start : start + preference.shape[1]]
                targets.append(indices(choose(preference, random, counts[level]), counts[level]))
                continue
            if stride not in by_stride:
                by_stride[stride] = indices(self._refine(coarse, stride), counts[level])
            targets.append(by_stride[stride])
        return targets

    def _context_preference(self, parts: dict[str, Bits], hidden: Hidden) -> NDArray[np.uint8]:
        """0 in a context block, 1 outside it, 2 in a target block but left out of the targets, 3 a target."""
        c = self.config
        u = _uniform(parts["context"]).reshape(len(parts["context"]), c.num_context_masks, -1)
        # I-JEPA's context block has aspect ratio 1; only its area and position vary.
        blocks = draw_blocks(u, self.grid, c.context_scale, (1.0, 1.0))
        preference = (~cover(blocks, self.grid)).view(np.uint8)
        target, spared = (self._refine(some, 1).view(np.uint8) for some in hidden)
        np.maximum(preference, 2 * spared, out=preference)
        return np.maximum(preference, 3 * target, out=preference)

    # -- grids ---------------------------------------------------------------------------------------------------

    def _ratio(self, coarse: PerAxis, fine: PerAxis) -> tuple[int, ...]:
        """Cells of the finer grid along each side of a cell of the coarser one."""
        axes = len(self.grid)
        return tuple(c // f for c, f in zip(per_axis(coarse, axes), per_axis(fine, axes), strict=True))

    def _refine(self, coarse: NDArray[np.bool_], stride: PerAxis) -> NDArray[np.bool_]:
        """Cells of the coarsest grid [B, cells] as cells of the grid with the given stride."""
        ratio = self._ratio(self._coarse, stride)
        if set(ratio) == {1}:
            return coarse
        fine = coarse.reshape(-1, *self._coarse_grid)
        for axis, times in enumerate(ratio, start=1):
            fine = fine.repeat(times, axis=axis)
        return fine.reshape(len(coarse), -1)

    # -- fixed counts --------------------------------------------------------------------------------------------

    def _calibrate(self) -> TokenCounts:
        self._check_fits()
        parts = self._split(_random_bits(Purpose.MASK_COUNTS, 0, 0, range(_CALIBRATION_IMAGES), self._randoms))
        covered, boxes = self._cover_targets(parts)
        coarse_count = max(1, int(np.quantile(covered.sum(axis=1), _SHORT)))
        # `random` uses the counts of `multiblock`, so that both cost the same.
        hidden, _ = self._hidden_cells(parts, coarse_count, scattered=False)
        preference = self._context_preference(parts, hidden)
        # A draw with fewer tokens inside its context block takes some from outside; it should rarely have to take
        # left-out tokens of a target block.
        visible = np.quantile((preference <= 1).sum(axis=1), 0.1)
        context = int(min(np.median((preference == 0).sum(axis=1)), visible))
        hidden_tokens = coarse_count * math.prod(self._ratio(self._coarse, 1))
        if context < 1:
            raise UserError(
                f"masking.context_scale: no visible tokens are left on the {by(self.grid)} token grid by "
                f"{self.config.num_masks} target blocks of scale {self.config.mask_scale[0]:g} to "
                f"{self.config.mask_scale[1]:g}; lower masking.num_masks or masking.mask_scale, or "
                "raise masking.context_scale"
            )
        targets = []
        for level, stride in enumerate(self.strides):
            if self._nested and level < len(self.strides) - 1:
                inside = cover(boxes[level], cells(self.grid, stride))
                inside &= self._refine(hidden[0], stride)
                targets.append(max(1, int(np.quantile(inside.sum(axis=1), _SHORT))))
            else:
                targets.append(coarse_count * math.prod(self._ratio(self._coarse, stride)))
        return TokenCounts(context=context, targets=tuple(targets), hidden=hidden_tokens)

    def _check_fits(self) -> None:
        c = self.config
        growth = c.level_growth ** (len(self.strides) - 1) if self._nested else 1.0
        largest = c.mask_scale[1] * growth
        # Cells along the axes where blocks have a size; along the others they span the grid.
        differ = math.prod(self._coarse_grid[axis] for axis in block_axes(self._coarse_grid))
        if self._cells < 2:
            raise UserError(
                f"masking: the coarsest level has a single cell on the {by(self.grid)} token grid, so hiding it leaves "
                "nothing visible; use a smaller patch, a larger data.image_size, a smaller stride, or stride 0, which "
                "predicts the whole image from its visible tokens"
            )
        if largest >= 1:
            raise UserError(
                f"masking.mask_scale: blocks of scale {c.mask_scale[1]:g}"
                + (f", scaled {growth:g} times by masking.level_growth," if growth > 1 else "")
                + f" are larger than the {by(self.grid)} token grid; use at most {0.95 / growth:.2g}"
            )
        if largest * differ < 0.5:
            raise UserError(
                f"masking.mask_scale: {c.mask_scale[1]:g} of {differ} cells is less than half a cell; use at "
                f"least {1 / differ:.2g}"
            )


def _random_bits(purpose: Purpose, seed: int, step: int, positions: range, width: int) -> Bits:
    """Uniform integers below 2**24, [len(positions), width]; row i depends only on (purpose, seed, step, position i,
    width)."""
    # A Philox counter step yields four 64-bit words = eight 32-bit ones; rows start at whole counter steps.
    per_row = -(-width // 8)
    source = np.random.Philox(key=philox_key(purpose, seed, step))
    source.advance(positions.start * per_row)
    words = source.random_raw(4 * per_row * len(positions)).astype("<u8", copy=False).view("<u4")
    return words.reshape(len(positions), 8 * per_row)[:, :width] >> np.uint32(32 - RANDOM_BITS)


def _uniform(bits: Bits) -> NDArray[np.float32]:
    """The same numbers as floats in [0, 1), exact."""
    return bits.astype(np.float32) * np.float32(2.0**-RANDOM_BITS)
