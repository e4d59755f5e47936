"""Figures for the report: PNG or JPEG as data URIs, in both themes."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from hjepa.visualization.figures.figure import Figure
from hjepa.visualization.figures.style import DPI, WIDTH

# A PNG of more bytes than this is a grid of photographs, for which JPEG needs a fifth of the size.
_HEAVY = 400_000
_JPEG_QUALITY = 90


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


def data_uri(png: bytes) -> str:
    """A PNG as a data URI; large ones are converted to JPEG, so that the report stays small."""
    if len(png) <= _HEAVY:
        return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    from PIL import Image

    buffer = io.BytesIO()
    # No chroma subsampling, which would blur the edges of small coloured cells.
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
