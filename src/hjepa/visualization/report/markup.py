"""Small pieces of HTML: escaping, inline code, links to papers, and images that travel inside the file."""

from __future__ import annotations

import base64
import html
import io
import re

from hjepa.visualization.figures.style import DPI, WIDTH

_CODE = re.compile(r"`([^`]+)`")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
# A PNG heavier than this is a mosaic of photographs, which JPEG carries at a fifth of the weight.
_HEAVY = 400_000
_JPEG_QUALITY = 90
FULL_WIDTH = round(WIDTH * DPI)


def escape(text: str) -> str:
    """Text as HTML."""
    return html.escape(text, quote=True)


def prose(text: str) -> str:
    """Text as HTML, with `backticks` as code and arXiv numbers as links."""
    marked = _CODE.sub(r"<code>\1</code>", escape(text))
    return _PAPER.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', marked)


def tag(name: str, content: str, **attributes: str) -> str:
    """An element around HTML; `class_` and `aria_label` lose and change their underscores."""
    text = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{text}>{content}</{name}>"


def picture(light: bytes, dark: bytes, alt: str) -> str:
    """A figure in two themes; the reader's setting chooses, print is light.

    Args:
        light, dark: PNG files of the same size.
        alt: the figure in words.
    """
    width, height = png_size(light)
    # A figure of half the width takes half of the column, so that words have the same size in all of them.
    share = min(100.0, 100 * width / FULL_WIDTH)
    return (
        f'<picture><source media="screen and (prefers-color-scheme: dark)" srcset="{data_uri(dark)}">'
        f'<img src="{data_uri(light)}" width="{width}" height="{height}" alt="{escape(alt)}" style="width:{share:.1f}%"></picture>'
    )


def data_uri(png: bytes) -> str:
    """A PNG as a data URI; heavy ones are carried as JPEG, so that the report stays small."""
    if len(png) <= _HEAVY:
        return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    from PIL import Image

    buffer = io.BytesIO()
    # Colours are not thinned out: the edges of small coloured cells would bleed.
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG file, from its header."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
