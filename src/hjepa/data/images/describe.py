"""Describe the conversions that decoding applies to an image, judging by its file header."""

from __future__ import annotations

import io

_ORIENTATION = 0x0112
_DEEP = ("I", "F")


def conversions(data: bytes) -> list[str]:
    """The conversions that `decode` applies to a file, a few words each; empty for files that are not images.

    Reads the header only.
    """
    from PIL import Image

    if data[:6] == b"\x93NUMPY":
        return []
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _told(image)
    except Exception:
        return []  # `decode` reports it as a bad file


def _told(image: object) -> list[str]:
    from PIL import Image

    assert isinstance(image, Image.Image)
    found = []
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        found.append("transparency, composited over white unless data.channels keeps it")
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        found.append("rotated or flipped by EXIF orientation")
    if image.mode == "P":
        found.append("palette to RGB")
    elif image.mode not in ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "PA", *_DEEP) and not image.mode.startswith(
        "I;16"
    ):
        found.append(f"{image.mode} to RGB")
    if getattr(image, "n_frames", 1) > 1 and image.format != "TIFF":
        found.append("first frame of an animation")
    return found
