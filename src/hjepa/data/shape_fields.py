"""Building blocks of the data set ``shapes``: random bits, waves and shape fields.

Per-pixel code uses only operations that IEEE 754 rounds exactly (add, subtract, multiply, divide, square root,
minimum, maximum, absolute value, floor) and wrapping integer arithmetic, so that a pixel never depends on the batch
size or the number of threads. Library routines such as ``sin`` do not guarantee that: they may differ in the last bit
between the vectorised part and the remainder of a loop.

Units: shape fields take coordinates in the shape's own frame, scaled so that every shape has the area of a disk of
radius 1, and return a signed distance in the same unit, negative inside.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]


# ----------------------------------------------------------------------------------------------------
# Counter-based random numbers


def _signed(value: int, bits: int) -> int:
    """The two's complement value of the low ``bits`` bits of ``value`` (torch has no unsigned arithmetic)."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _shift_right(x: Tensor, by: int, bits: int) -> Tensor:
    """Logical right shift of signed integers (torch shifts arithmetically)."""
    return (x >> by) & ((1 << (bits - by)) - 1)


def mix64(x: Tensor) -> Tensor:
    """Hash int64 values to int64 values (the finaliser of SplitMix64, a bijection)."""
    x = (x ^ _shift_right(x, 30, 64)) * _signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ _shift_right(x, 27, 64)) * _signed(0x94D049BB133111EB, 64)
    return x ^ _shift_right(x, 31, 64)


def make_key(*parts: int) -> int:
    """Hash integers into one 64-bit key; the order of the parts matters."""
    key = torch.zeros((), dtype=torch.int64)
    for part in parts:
        key = mix64(key * 3 + _signed(part + 0x9E3779B97F4A7C15, 64))
    return int(key)


def random_bits(key: int, counter: Tensor, slots: Tensor) -> Tensor:
    """Random int64 words [len(counter), len(slots)]; each is a function of key, counter and slot alone."""
    row = mix64(counter * _signed(0x9E3779B97F4A7C15, 64) + key)
    return mix64(row[:, None] + (slots[None, :] + 1) * _signed(0xD1342543DE82EF95, 64))


def random_uniform(key: int, counter: Tensor, slots: Tensor) -> Tensor:
    """Random float64 values in [0, 1); shape and arguments as for :func:`random_bits`."""
    return _shift_right(random_bits(key, counter, slots), 11, 64).to(torch.float64) * 2.0**-53


def pixel_noise(words: Tensor, size: int) -> Tensor:
    """Noise of mean 0 and variance 1, float32 [len(words), size], from one random int64 word per image.

    The distribution is triangular (the sum of two uniform variables), which is cheap and bounded by about 2.45.
    """
    word = ((words & 0xFFFFFFFF) - (1 << 31)).to(torch.int32)[:, None]
    x = word + torch.arange(size, dtype=torch.int32)[None, :] * _signed(0x9E3779B9, 32)
    x = (x ^ _shift_right(x, 16, 32)) * _signed(0x7FEB352D, 32)
    x = (x ^ _shift_right(x, 15, 32)) * _signed(0x846CA68B, 32)
    x = x ^ _shift_right(x, 16, 32)
    total = (x & 0xFFFF) + _shift_right(x, 16, 32)
    # Each half is uniform on 0..65535; 65535 / sqrt(6) is the deviation of their sum.
    return (total - 65535).to(torch.float32) * (math.sqrt(6.0) / 65535.0)


# ----------------------------------------------------------------------------------------------------
# Waves and coverage


def wave(phase: Tensor) -> Tensor:
    """Smooth periodic function of period 1 and range [-1, 1]; two parabolas per period, close to a sine."""
    z = phase - torch.floor(phase + 0.5)
    return z * (8.0 - 16.0 * z.abs())


def coverage(distance: Tensor, width: Tensor | float) -> Tensor:
    """Share of a pixel inside a shape: 1 inside, 0 outside, linear over ``width`` around the outline."""
    return (0.5 - distance / width).clamp_(0.0, 1.0)


# ----------------------------------------------------------------------------------------------------
# Shapes. Each is equal to its own mirror image, so that a horizontal flip keeps the class.


def _length(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y)


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _disk(x: Tensor, y: Tensor) -> Tensor:
    return _length(x, y) - 1.0


_RING_HALF_WIDTH = 0.24


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (_length(x, y) - (1.0 - _RING_HALF_WIDTH)).abs() - _RING_HALF_WIDTH


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    # Equilateral, inscribed in the unit circle: three half planes at distance 1/2.
    return torch.maximum(-y, x.abs() * math.sqrt(0.75) + y * 0.5) - 0.5


_CROSS_ARM = 0.3


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.0, _CROSS_ARM), _box(x, y, _CROSS_ARM, 1.0))


_WAIST = 0.1
_HOURGLASS_SLOPE = 0.75


def _hourglass(x: Tensor, y: Tensor) -> Tensor:
    # Two triangles that meet at a narrow waist.
    sides = (x.abs() - y.abs() * _HOURGLASS_SLOPE - _WAIST) / math.hypot(1.0, _HOURGLASS_SLOPE)
    return torch.maximum(y.abs() - 1.0, sides)


_BAR_OFFSET = 0.62
_BAR_HALF_WIDTH = 0.3


def _bars(x: Tensor, y: Tensor) -> Tensor:
    # Two parallel bars.
    return torch.maximum((y.abs() - _BAR_OFFSET).abs() - _BAR_HALF_WIDTH, x.abs() - 1.0)


# Name, field before scaling, and its area. Shapes are scaled to equal area, so that neither the mean brightness of an
# image nor its share of foreground reveals the class.
_SHAPES: tuple[tuple[str, Field, float], ...] = (
    ("disk", _disk, math.pi),
    ("ring", _ring, math.pi * 4.0 * _RING_HALF_WIDTH * (1.0 - _RING_HALF_WIDTH)),
    ("triangle", _triangle, 0.75 * math.sqrt(3.0)),
    ("cross", _cross, 4.0 * _CROSS_ARM * (2.0 - _CROSS_ARM)),
    ("hourglass", _hourglass, 2.0 * _HOURGLASS_SLOPE + 4.0 * _WAIST),
    ("bars", _bars, 8.0 * _BAR_HALF_WIDTH),
)

NAMES: tuple[str, ...] = tuple(name for name, _, _ in _SHAPES)


def signed_distance(label: int, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the outline of shape ``label``, negative inside; float32, shaped like ``x``.

    ``x``, ``y``: coordinates in the shape's frame; every shape has an area of pi. The value is exact near the outline,
    where :func:`coverage` uses it, and only a bound far from it.
    """
    _, field, area = _SHAPES[label]
    scale = math.sqrt(area / math.pi)
    return field(x * scale, y * scale) / scale
