"""Token grids of one, two or three axes, and what a stride per axis makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from hjepa.errors import UserError

Grid = tuple[int, ...]
"""Sizes along each axis: (time,) of a signal, (rows, columns) of an image, (time, rows, columns) of a clip."""
PerAxis = int | tuple[int, ...]
"""A number for every axis, or one number for all of them: a stride, the size of a patch."""

MOST_AXES = 3


def canonical(value: PerAxis | Sequence[int]) -> PerAxis:
    """One number where it is the same on every axis, so that equal strides compare equal however they were given."""
    if isinstance(value, int):
        return value
    return value[0] if len(set(value)) == 1 else tuple(value)


def per_axis(value: PerAxis, axes: int) -> tuple[int, ...]:
    """A number for each of the axes. Raises `ValueError` for another count of numbers."""
    if isinstance(value, int):
        return (value,) * axes
    if len(value) != axes:
        raise ValueError(f"{by(value)} has {len(value)} numbers for {axes} axes; give {axes}, or one for all")
    return value


def cells(grid: Grid, stride: PerAxis) -> Grid:
    """The grid of cells of a level; a single cell for stride 0, the whole input."""
    if stride == 0:
        return (1,) * len(grid)
    return tuple(size // step for size, step in zip(grid, per_axis(stride, len(grid)), strict=True))


def by(sizes: Sequence[int]) -> str:
    """Sizes as a message shows them: "14x14"."""
    return "x".join(map(str, sizes))


def shown(value: PerAxis) -> str:
    """A stride or patch as a message shows it: "16" where it is the same on every axis, else "2x16x16"."""
    return str(value) if isinstance(value, int) else by(value)


def plane(sizes: Grid) -> tuple[int, int]:
    """Rows and columns of an image or of its grid, for what works on pictures alone.

    Raises:
        UserError: a signal or a clip.
    """
    if len(sizes) != 2:
        raise UserError(f"this works on images, which have two axes, not on inputs of {len(sizes)} ({by(sizes)})")
    return sizes[0], sizes[1]


def axis_widths(width: int, axes: int) -> tuple[int, ...]:
    """How many features of a position belong to each axis.

    Features come in pairs, a sine and a cosine or two that turn together. Axes share the pairs equally. What three axes
    leave over goes to the last ones, a pair each: of 64 features time has 20, rows and columns have 22 each.

    Raises:
        ValueError: a width that cannot be shared; the message continues "must be ...".
    """
    each, rest = divmod(width // 2, axes)
    if width % 2 or not each or (rest and axes == 2):
        need = {1: "an even number", 2: "a multiple of 4", 3: "an even number, at least 6"}
        raise ValueError(f"{width} must be {need[axes]}")
    return tuple(2 * (each + (axis >= axes - rest)) for axis in range(axes))
