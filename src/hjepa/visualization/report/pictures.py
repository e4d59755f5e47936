"""Figures for the report: PNG or WebP as data URIs, in both themes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hjepa.visualization.figures.figure import Figure
from hjepa.visualization.figures.style import DPI, WIDTH

if TYPE_CHECKING:
    from PIL import Image

# A smaller PNG is embedded as it is, as compressing it takes longer than it saves.
_LIGHT = 150_000
# Charts and maps of few colours stay below this many bytes without loss. What does not is a grid of photographs.
_HEAVY = 200_000
QUALITIES = (90, 75, 50, 25)
"""Of heavy figures, from the first one; the others if the report gets too large."""


@dataclass(frozen=True)
class DrawnFigure:
    """A figure drawn in both themes.

    Attributes:
        figure: the figure with its texts.
        light, dark: PNG files of equal width and height.
    """

    figure: Figure
    light: bytes
    dark: bytes

    @property
    def name(self) -> str:
        """File name without suffix."""
        return self.figure.name

    @property
    def title(self) -> str:
        """Heading."""
        return self.figure.title

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header of the PNG file."""
        return int.from_bytes(self.light[16:20], "big"), int.from_bytes(self.light[20:24], "big")

    @property
    def share(self) -> float:
        """Width in per cent of the page column, proportional to the figure's width, so that text has the same size."""
        return min(100.0, 100 * self.size[0] / round(WIDTH * DPI))


def data_uri(png: bytes, quality: int = QUALITIES[0]) -> str:
    """A PNG as a data URI; a larger one as an equal WebP image, or as a lossy one if that would be large."""
    if len(png) <= _LIGHT:
        return _uri("png", png)
    from PIL import Image, features

    image = Image.open(io.BytesIO(png)).convert("RGB")
    if not features.check("webp"):
        # Pillow can be built without it. No chroma subsampling, which would blur the edges of small coloured cells.
        return (
            _uri("jpeg", _encode(image, "JPEG", quality=quality, subsampling=0))
            if len(png) > _HEAVY
            else _uri("png", png)
        )
    exact = _encode(image, "WEBP", lossless=True, method=1, quality=20)
    return _uri("webp", exact if len(exact) <= _HEAVY else _encode(image, "WEBP", method=1, quality=quality))


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
