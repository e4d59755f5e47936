"""Token grids with one to three axes, and strides per axis."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa.errors import UserError

Grid = tuple[int, ...]
"""Sizes along each axis: (time,) of a signal, (rows, columns) of an image, (time, rows, columns) of a clip."""
PerAxis = int | tuple[int, ...]
"""A stride or patch size: one number per axis, or one number for all axes."""

MOST_AXES = 3


def canonical(value: PerAxis | Sequence[int]) -> PerAxis:
    """Reduce equal numbers to a single one, so that equal strides compare equal however they were given."""
    if isinstance(value, int):
        return value
    return value[0] if len(set(value)) == 1 else tuple(value)


def per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    """Expand to one number per axis. Raises `ValueError` if there are more or fewer numbers than axes."""
    if isinstance(value, int):
        return (value,) * axes
    if len(value) != axes:
        raise ValueError(f"{by(value)} has {len(value)} numbers for {axes} axes; give {axes}, or one for all")
    return value


def cells(grid: Grid, stride: PerAxis) -> Grid:
    """The grid of cells of a level; a single cell for stride 0 (the whole input)."""
    if stride == 0:
        return (1,) * len(grid)
    return tuple(size // step for size, step in zip(grid, per_axis(stride, len(grid)), strict=True))


def by(sizes: Sequence[int]) -> str:
    """Format sizes for messages: "14x14"."""
    return "x".join(map(str, sizes))


def shown(value: PerAxis) -> str:
    """Format a stride or patch size for messages: "16" if it is the same on every axis, otherwise "2x16x16"."""
    return str(value) if isinstance(value, int) else by(value)


def plane(sizes: Grid) -> tuple[int, int]:
    """Rows and columns of an image or its grid, for code that supports images only.

    Raises:
        UserError: a signal or a clip.
    """
    if len(sizes) != 2:
        raise UserError(f"only images, with two axes, are supported here; the input has {len(sizes)} ({by(sizes)})")
    return sizes[0], sizes[1]


def axis_widths(width: int, axes: int) -> tuple[int, ...]:
    """Number of position features for each axis.

    Features come in pairs (a sine and a cosine, or two that rotate together), divided equally among the axes. With
    three axes, left-over pairs go to the last ones: of 64 features, time gets 20, rows and columns get 22 each.

    Raises:
        ValueError: the width cannot be divided; the message is "<width> must be ...".
    """
    each, rest = divmod(width // 2, axes)
    if width % 2 or not each or (rest and axes == 2):
        need = {1: "an even number", 2: "a multiple of 4", 3: "an even number, at least 6"}
        raise ValueError(f"{width} must be {need[axes]}")
    return tuple(2 * (each + (axis >= axes - rest)) for axis in range(axes))
