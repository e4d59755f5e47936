"""Data set ``shapes``: labelled synthetic images, generated on the fly without a download.

Construction. An image is a tiling of one object, and its class is the shape of that object (:data:`CLASSES`).
Everything else is drawn independently of the class:

* size, position, rotation and stretch of the tiling, the spacing of the copies and the shift between rows;
* a base colour, and a colour contrast of random sign and hue: objects may be lighter or darker than the background, or
  differ in hue only;
* a smooth texture on the objects and another on the background;
* a soft step between two background tones, strokes behind the objects as distractors, a lighting gradient, and mild
  pixel noise.

Hidden regions can be predicted from visible ones by the shape and spacing of the copies, but hardly by comparing
pixels, as there are too many possible tilings.

All objects have the same area at the same size parameter, and a relief along their outline that is brighter inside and
darker outside. The relief averages to about zero, so raw pixels say little about the class, but it marks outlines
regardless of colour. Without it, a network must first learn to ignore the random sign of the contrast, which takes a
small one much longer. Every shape is mirror-symmetric, so a horizontal flip keeps the class. Lengths are relative to
the shorter image side; a larger image shows the same scene at a higher resolution.

Randomness. Every number is a hash of (version, seed, split, image index, purpose): image ``i`` does not depend on how
many images are drawn, and no generator state is read or changed.

Versions. Any change of pixels or labels must increment :data:`VERSION`, which results record.
"""

import math
import operator

import torch
from torch import Tensor

from hjepa.data import shape_fields as fields

VERSION: int = 2
CLASSES: tuple[str, ...] = fields.NAMES
SPLITS: tuple[str, ...] = ("train", "test")

_STROKES = 2

# First slot of the colours, far above those of the scalars, so that more channels do not shift any slot.
_COLOUR = 1000
_COLOURS_PER_CHANNEL = 8

# Objects: radius of the disk of equal area and offset of the tiling, both in units of the shorter side; log of the
# stretch; spacing of the copies in radii.
RADIUS = (0.155, 0.235)
_SPACING = (3.2, 5.4)
_OFFSET = 0.5
_LOG_STRETCH = 0.12
_TURN = math.pi
# Largest difference over the channels between object and background, before textures.
CONTRAST = (0.25, 0.45)
BASE = (0.32, 0.62)
TEXTURE_OBJECT = (0.02, 0.08)
TEXTURE_BACKGROUND = (0.03, 0.1)
# Relief along the outline: width to either side, and the largest value that it adds or subtracts.
_RELIEF_WIDTH = (0.045, 0.07)
_RELIEF = (0.37, 0.51)
# Texture waves per shorter side.
FREQUENCY_OBJECT = (1.0, 3.5)
FREQUENCY_BACKGROUND = (0.5, 2.0)
_STEP = 0.15
STROKE = 0.06
LIGHT = 0.25
NOISE = (0.004, 0.012)


def generate(
    count: int,
    *,
    image_size: int | tuple[int, int] = 32,
    split: str = "train",
    seed: int = 0,
    channels: int = 3,
    chunk: int = 250,
) -> tuple[Tensor, Tensor]:
    """Draw the first ``count`` images of a split.

    Args:
        count: number of images, at least 0.
        image_size: side in pixels, or (height, width); each at least 8.
        split: one of :data:`SPLITS`; equal in distribution, with no image in common.
        seed: selects another data set of the same distribution; 0 or more, below 2**63.
        channels: colour channels, at least 1.
        chunk: images drawn at a time; limits memory and does not affect the result.

    Returns:
        ``(images, labels)``: images uint8 [count, channels, height, width], values 0 to 255; labels int64
        [count], indices into :data:`CLASSES`; class counts differ by at most 1. Both are on the CPU.

    Raises:
        ValueError: an argument is out of range; the message names it and its value.
    """
    count = _integer("count", count, 0)
    channels = _integer("channels", channels, 1)
    chunk = _integer("chunk", chunk, 1)
    seed = _integer("seed", seed, 0)
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {seed}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    height, width = _size(image_size)
    key = fields.make_key(VERSION, seed, SPLITS.index(split))

    labels = _labels(key, count)
    images = torch.empty(count, channels, height, width, dtype=torch.uint8)
    with torch.no_grad():
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            index = torch.arange(start, stop, dtype=torch.int64)
            images[start:stop] = _draw(key, index, labels[start:stop], channels, height, width)
    return images, labels


def _integer(name: str, value: int, lowest: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < lowest:
        raise ValueError(f"{name} must be at least {lowest}, got {number}")
    return number


def _size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(image_size, (tuple, list)):
        if len(image_size) != 2:
            raise ValueError(f"image_size must be an integer or (height, width), got {image_size!r}")
        height, width = image_size
    else:
        height = width = image_size
    # Below 8 pixels the classes cannot be distinguished.
    return _integer("image_size", height, 8), _integer("image_size", width, 8)


def _labels(key: int, count: int) -> Tensor:
    """Classes in a random order within each block of ``len(CLASSES)`` consecutive images."""
    classes = len(CLASSES)
    blocks = torch.arange((count + classes - 1) // classes, dtype=torch.int64)
    order = fields.random_bits(fields.make_key(key, 1), blocks, torch.arange(classes))
    return order.argsort(dim=1).flatten()[:count].clone()


class Draws:
    """Random scalars of a batch of images, float64 [images, 1, 1] each, in a fixed order."""

    def __init__(self, key: int, index: Tensor, slots: int) -> None:
        self._values = fields.random_uniform(key, index, torch.arange(slots))
        self._next = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """The next one, uniform in [low, high), float64 [images, 1, 1]."""
        value = self._values[:, self._next, None, None]
        self._next += 1
        return low + (high - low) * value


def _draw(key: int, index: Tensor, labels: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Images ``index`` as uint8 [images, channels, height, width]."""
    draws = Draws(fields.make_key(key, 2), index, 64)
    short = min(height, width)
    # Pixel centres, origin in the middle of the image.
    x = ((torch.arange(width, dtype=torch.float32) + 0.5) - 0.5 * width).div(short)[None, None, :]
    y = ((torch.arange(height, dtype=torch.float32) + 0.5) - 0.5 * height).div(short)[None, :, None]
    half = (0.5 * width / short, 0.5 * height / short)

    inside, relief = _object(draws, labels, x, y, half, 1.0 / short)
    object_texture = texture(draws, x, y, FREQUENCY_OBJECT, TEXTURE_OBJECT)
    background_texture = texture(draws, x, y, FREQUENCY_BACKGROUND, TEXTURE_BACKGROUND)
    angle, shift = draws.uniform(0.0, 2.0 * math.pi), draws.uniform(-0.4, 0.4)
    # A step softened over a quarter of the side keeps its outline from competing with the object's.
    step = fields.coverage(linear(angle.cos(), angle.sin(), shift, x, y), 0.25)
    strokes = [stroke(draws, x, y, half, 1.0 / short) for _ in range(_STROKES)]
    angle, strength = draws.uniform(0.0, 2.0 * math.pi), draws.uniform(0.0, LIGHT)
    light = linear(angle.cos() * strength, angle.sin() * strength, torch.ones_like(angle), x, y)
    contrast = draws.uniform(*CONTRAST)
    noise_level = draws.uniform(*NOISE).to(torch.float32)

    slots = _COLOUR + torch.arange(_COLOURS_PER_CHANNEL * channels)
    colours = fields.random_uniform(fields.make_key(key, 2), index, slots)
    colours = colours.view(len(index), channels, _COLOURS_PER_CHANNEL) * 2.0 - 1.0
    base = 0.5 * (BASE[0] + BASE[1]) + 0.5 * (BASE[1] - BASE[0]) * colours[:, :, 0]
    # Scale the random direction in colour space by its largest component, so that one channel has the full contrast
    # while the difference in mean brightness may have either sign or vanish.
    direction = colours[:, :, 1]
    direction = direction / direction.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)
    split = 0.5 * contrast[:, :, 0] * direction

    images = torch.empty(len(index), channels, height, width, dtype=torch.uint8)
    words = fields.random_bits(fields.make_key(key, 3), index, torch.arange(channels))

    def tint(number: int, channel: int, scale: float = 1.0) -> Tensor:
        return (colours[:, channel, number] * scale).to(torch.float32)[:, None, None]

    for channel in range(channels):
        front = (base + split)[:, channel].to(torch.float32)[:, None, None]
        back = (base - split)[:, channel].to(torch.float32)[:, None, None]
        value = background_texture * tint(2, channel) + step * tint(3, channel, _STEP) + back
        for number, covered in enumerate(strokes):
            value = value + covered * tint(4 + number, channel, STROKE)
        value = value + inside * (object_texture * tint(6, channel) + front - value)
        noise = fields.pixel_noise(words[:, channel], height * width).view(-1, height, width)
        value = (value - relief) * light + noise * noise_level
        images[:, channel] = (value * 255.0 + 0.5).clamp_(0.0, 255.0).to(torch.uint8)
    return images


def linear(a: Tensor, b: Tensor, c: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``a x + b y + c`` per pixel; coefficients are rounded to float32 only here."""
    return (x * a.to(torch.float32) + c.to(torch.float32)) + y * b.to(torch.float32)


def _object(
    draws: Draws, labels: Tensor, x: Tensor, y: Tensor, half: tuple[float, float], pixel: float
) -> tuple[Tensor, Tensor]:
    """Share of each pixel that the objects cover, and the relief to subtract from its value."""
    radius = draws.uniform(*RADIUS)
    # Along the longer side of an image the offset covers the extra length too.
    centre_x = draws.uniform(-1.0, 1.0) * (half[0] - 0.5 + _OFFSET)
    centre_y = draws.uniform(-1.0, 1.0) * (half[1] - 0.5 + _OFFSET)
    u, v = pose(draws, radius, centre_x, centre_y, x, y)
    # Fold the plane into cells with one copy of the object in the middle of each; rows are shifted against each other.
    column_width, row_height = (draws.uniform(*_SPACING).to(torch.float32) for _ in range(2))
    row = torch.round(v / row_height)
    u = u - column_width * draws.uniform().to(torch.float32) * row
    u, v = u - column_width * torch.round(u / column_width), v - row_height * row
    return outline(draws, labels, u, v, radius, pixel)


def pose(
    draws: Draws, radius: Tensor, centre_x: Tensor, centre_y: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels in the frame of an object of random rotation and stretch, in units of its radius."""
    turn = draws.uniform(-_TURN, _TURN)
    axis = draws.uniform(0.0, math.pi)
    stretch = draws.uniform(-_LOG_STRETCH, _LOG_STRETCH).exp()
    # Inverse of: stretch along ``axis`` (area kept), then rotation, then size.
    cos, sin = axis.cos(), axis.sin()
    along, across = 1.0 / (stretch * radius), stretch / radius
    xx, yy = along * cos * cos + across * sin * sin, along * sin * sin + across * cos * cos
    xy = (along - across) * cos * sin
    cos, sin = turn.cos(), turn.sin()
    ax, ay = xx * cos - xy * sin, xx * sin + xy * cos
    bx, by = xy * cos - yy * sin, xy * sin + yy * cos
    u = linear(ax, ay, -(ax * centre_x + ay * centre_y), x, y)
    v = linear(bx, by, -(bx * centre_x + by * centre_y), x, y)
    return u, v


def outline(draws: Draws, labels: Tensor, u: Tensor, v: Tensor, radius: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    """Share of each pixel that an object covers, and the relief along its outline, to subtract from the pixel's value."""
    distance = torch.empty_like(u)
    for label in range(len(CLASSES)):
        rows = (labels == label).nonzero().flatten()
        if len(rows):
            distance[rows] = fields.signed_distance(label, u[rows], v[rows])
    soft = (pixel / radius).to(torch.float32)
    thickness = (draws.uniform(*_RELIEF_WIDTH) / radius).to(torch.float32)
    strength = draws.uniform(*_RELIEF).to(torch.float32)
    relief = fields.wave((distance / thickness).clamp_(-1.0, 1.0) * 0.5) * strength
    return fields.coverage(distance, soft), relief


def texture(
    draws: Draws, x: Tensor, y: Tensor, frequency: tuple[float, float], amplitude: tuple[float, float]
) -> Tensor:
    """A texture made of two plane waves: stripes, blobs or checks, chosen at random."""
    kind = draws.uniform(0.0, 3.0).floor()
    strength = draws.uniform(*amplitude)
    waves = []
    for _ in range(2):
        angle, phase = draws.uniform(0.0, 2.0 * math.pi), draws.uniform()
        cycles = draws.uniform(*frequency)
        waves.append(fields.wave(linear(angle.cos() * cycles, angle.sin() * cycles, phase, x, y)))
    single = torch.where(kind == 0.0, 1.0, torch.where(kind == 1.0, 0.5, 0.0)) * strength
    second = torch.where(kind == 1.0, 0.5, 0.0) * strength
    product = torch.where(kind == 2.0, 1.0, 0.0) * strength
    first_wave, second_wave = waves
    return first_wave * (single.to(torch.float32) + second_wave * product.to(torch.float32)) + second_wave * (
        second.to(torch.float32)
    )


def stroke(draws: Draws, x: Tensor, y: Tensor, half: tuple[float, float], pixel: float) -> Tensor:
    """Coverage of a straight stroke with round ends."""
    centre_x, centre_y = draws.uniform(-1.0, 1.0) * half[0], draws.uniform(-1.0, 1.0) * half[1]
    angle, length = draws.uniform(0.0, math.pi), draws.uniform(0.05, 0.25)
    thickness = draws.uniform(0.03, 0.07).to(torch.float32)
    cos, sin = angle.cos(), angle.sin()
    u = linear(cos, sin, -(cos * centre_x + sin * centre_y), x, y)
    v = linear(-sin, cos, sin * centre_x - cos * centre_y, x, y)
    u = (u.abs() - length.to(torch.float32)).clamp(min=0.0)
    return fields.coverage(torch.sqrt(u * u + v * v) - thickness, pixel)
