"""Generated scenes: the shapes of `hjepa.data.shapes`, several to a picture, with known boxes and masks.

Construction. A scene has one to three objects on a textured background with strokes as distractors. Class, size,
rotation, stretch, colours and texture of every object are drawn independently of each other; colours, textures and the
relief along outlines have the same distributions as in `hjepa.data.shapes`. Each object is placed as far as possible
from those before it, out of a few random places. Where objects overlap, the later one covers the earlier.

Answers. The class of a pixel is that of the object which covers at least half of it. A box is the smallest one around
an object's visible pixels; objects of which less than a quarter is visible have no box.

Randomness. Every number is a hash of (version, seed, split, index, purpose), as in `hjepa.data.shapes`. Any change of
pixels or answers must increment `VERSION`, which results record.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hjepa.data import shape_fields as fields
from hjepa.data import shapes
from hjepa.data.targets import Boxes

VERSION = 1
MOST_OBJECTS = 3
BACKGROUND = "background"
MASK_CLASSES: tuple[str, ...] = (BACKGROUND, *shapes.CLASSES)
"""Names of the values of a mask."""

_PLACES = 8
_VISIBLE = 0.25
_FEWEST_PIXELS = 4
_STROKES = 2
# Keeps scenes apart from the images of `shapes` with the same seed.
_SCENES = 7
_COLOURS = 3 + 2 * MOST_OBJECTS


class Scenes(NamedTuple):
    """Scenes and their answers, on the CPU."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    masks: Tensor
    """uint8 [N, H, W], indices into `MASK_CLASSES`; 0 is the background."""
    objects: list[Boxes]
    """Per scene; labels are indices into `hjepa.data.shapes.CLASSES`."""


def generate_scenes(
    count: int,
    *,
    image_size: tuple[int, int] = (32, 32),
    split: str = "train",
    seed: int = 0,
    channels: int = 3,
    chunk: int = 250,
) -> Scenes:
    """Draw the first ``count`` scenes of a split.

    Args:
        count: number of scenes, at least 1.
        image_size: height and width in pixels, each at least 16.
        split: ``train`` or ``test``.
        seed: selects another set of scenes of the same distribution.
        channels: colour channels, at least 1.
        chunk: scenes drawn at a time; limits memory and does not affect the result.

    Raises:
        ValueError: an argument is out of range; the message names it and its value.
    """
    if count < 1 or channels < 1 or chunk < 1:
        raise ValueError(f"count, channels and chunk must be at least 1, got {count}, {channels} and {chunk}")
    if min(image_size) < 16:
        raise ValueError(f"image_size must be at least 16, got {image_size}")
    if split not in shapes.SPLITS:
        raise ValueError(f"split must be one of {', '.join(shapes.SPLITS)}, got {split!r}")
    key = fields.make_key(VERSION, seed, shapes.SPLITS.index(split), _SCENES)
    parts = [
        _draw(key, torch.arange(start, min(start + chunk, count)), channels, *image_size)
        for start in range(0, count, chunk)
    ]
    return Scenes(
        torch.cat([part.images for part in parts]),
        torch.cat([part.masks for part in parts]),
        [objects for part in parts for objects in part.objects],
    )


@torch.no_grad()
def _draw(key: int, index: Tensor, channels: int, height: int, width: int) -> Scenes:
    draws = shapes.Draws(fields.make_key(key, 2), index, 64 + 64 * MOST_OBJECTS)
    short = min(height, width)
    x = ((torch.arange(width, dtype=torch.float32) + 0.5) - 0.5 * width).div(short)[None, None, :]
    y = ((torch.arange(height, dtype=torch.float32) + 0.5) - 0.5 * height).div(short)[None, :, None]
    half = (0.5 * width / short, 0.5 * height / short)
    number = draws.uniform(1.0, MOST_OBJECTS + 1.0).floor()
    background = _background(draws, x, y, half, 1.0 / short)
    placed: list[tuple[Tensor, Tensor]] = []
    things = []
    for place in range(MOST_OBJECTS):
        thing = _thing(draws, x, y, half, 1.0 / short, placed)
        things.append(thing._replace(inside=thing.inside * (place < number), relief=thing.relief * (place < number)))
    images = _paint(key, index, background, things, channels)
    owner = torch.full(images[:, 0].shape, -1)
    for place, thing in enumerate(things):
        owner[thing.inside >= 0.5] = place
    labels = torch.stack([thing.labels for thing in things], dim=1)
    masks = torch.where(owner >= 0, labels[torch.arange(len(index))[:, None, None], owner.clamp(min=0)] + 1, 0)
    return Scenes(images, masks.to(torch.uint8), _objects(owner, things, labels))


class _Thing(NamedTuple):
    """One object of every scene of a chunk."""

    labels: Tensor
    """int64 [N]."""
    inside: Tensor
    """Share of each pixel that it covers, [N, H, W]."""
    relief: Tensor
    """Along its outline, [N, H, W]."""
    texture: Tensor
    """[N, H, W]."""
    contrast: Tensor
    """float64 [N, 1, 1]."""


def _thing(
    draws: shapes.Draws,
    x: Tensor,
    y: Tensor,
    half: tuple[float, float],
    pixel: float,
    placed: list[tuple[Tensor, Tensor]],
) -> _Thing:
    """Draw one object, and append its centre to ``placed``."""
    labels = draws.uniform(0.0, float(len(shapes.CLASSES))).floor().to(torch.int64).flatten()
    radius = draws.uniform(*shapes.RADIUS)
    centre_x, centre_y = _place(draws, radius, half, placed)
    placed.append((centre_x, centre_y))
    u, v = shapes.pose(draws, radius, centre_x, centre_y, x, y)
    inside, relief = shapes.outline(draws, labels, u, v, radius, pixel)
    texture = shapes.texture(draws, x, y, shapes.FREQUENCY_OBJECT, shapes.TEXTURE_OBJECT)
    return _Thing(labels, inside, relief, texture, draws.uniform(*shapes.CONTRAST))


def _place(
    draws: shapes.Draws, radius: Tensor, half: tuple[float, float], placed: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Centre of an object within the picture: of several random ones, the farthest from the centres before it."""
    places = []
    for _ in range(_PLACES):
        centre = [draws.uniform(-1.0, 1.0) * (side - radius) for side in half]
        # The first object has none to avoid, and takes the first place.
        apart = torch.full_like(radius, math.inf if not placed else 0.0)
        if placed:
            apart = torch.stack([(centre[0] - a) ** 2 + (centre[1] - b) ** 2 for a, b in placed]).amin(dim=0)
        places.append((apart, *centre))
    best = torch.stack([apart for apart, _, _ in places]).argmax(dim=0, keepdim=True)
    return tuple(torch.stack([place[axis] for place in places]).gather(0, best)[0] for axis in (1, 2))  # type: ignore[return-value]


class _Background(NamedTuple):
    texture: Tensor
    strokes: Tensor
    light: Tensor
    noise: Tensor


def _background(draws: shapes.Draws, x: Tensor, y: Tensor, half: tuple[float, float], pixel: float) -> _Background:
    texture = shapes.texture(draws, x, y, shapes.FREQUENCY_BACKGROUND, shapes.TEXTURE_BACKGROUND)
    strokes = sum((shapes.stroke(draws, x, y, half, pixel) for _ in range(_STROKES)), torch.zeros(()))
    angle, strength = draws.uniform(0.0, 2.0 * math.pi), draws.uniform(0.0, shapes.LIGHT)
    light = shapes.linear(angle.cos() * strength, angle.sin() * strength, torch.ones_like(angle), x, y)
    return _Background(texture, strokes, light, draws.uniform(*shapes.NOISE).to(torch.float32))


def _paint(key: int, index: Tensor, background: _Background, things: list[_Thing], channels: int) -> Tensor:
    """Scenes uint8 [N, C, H, W]."""
    colours = fields.random_uniform(fields.make_key(key, 4), index, torch.arange(_COLOURS * channels))
    colours = colours.view(len(index), channels, _COLOURS, 1, 1) * 2.0 - 1.0
    low, high = shapes.BASE
    back = 0.5 * (low + high) + 0.5 * (high - low) * colours[:, :, 0]
    value = back + background.texture[:, None] * colours[:, :, 1]
    value = value + background.strokes[:, None] * colours[:, :, 2] * shapes.STROKE
    for place, thing in enumerate(things):
        direction, tint = colours[:, :, 3 + 2 * place], colours[:, :, 4 + 2 * place]
        direction = direction / direction.abs().amax(dim=1, keepdim=True).clamp(min=1e-9)
        front = back + thing.contrast[:, None] * direction + thing.texture[:, None] * tint
        value = value + thing.inside[:, None] * (front - value) - thing.relief[:, None]
    height, width = value.shape[2:]
    words = fields.random_bits(fields.make_key(key, 3), index, torch.arange(channels)).flatten()
    noise = fields.pixel_noise(words, height * width).view(-1, channels, height, width)
    value = value * background.light[:, None] + noise * background.noise[:, None]
    return (value * 255.0 + 0.5).clamp_(0.0, 255.0).to(torch.uint8)


def _objects(owner: Tensor, things: list[_Thing], labels: Tensor) -> list[Boxes]:
    """Boxes around the visible pixels of the objects of each scene; ``owner`` [N, H, W] names the visible object."""
    boxes, kept = [], []
    for place, thing in enumerate(things):
        visible = owner == place
        count, whole = visible.sum(dim=(1, 2)), (thing.inside >= 0.5).sum(dim=(1, 2))
        top, height = _extent(visible.any(dim=2))
        left, width = _extent(visible.any(dim=1))
        boxes.append(torch.stack([top, left, height, width], dim=1))
        kept.append((count >= _FEWEST_PIXELS) & (count >= _VISIBLE * whole))
    of_scene, seen = torch.stack(boxes, dim=1).to(torch.float32), torch.stack(kept, dim=1)
    return [Boxes(of_scene[i][seen[i]], labels[i][seen[i]]) for i in range(len(owner))]


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied index of each row [N, L], and the length up to the last one; 0 where none is."""
    first = occupied.to(torch.uint8).argmax(dim=1)
    last = occupied.shape[1] - 1 - occupied.flip(1).to(torch.uint8).argmax(dim=1)
    return first, torch.where(occupied.any(dim=1), last - first + 1, 0)
