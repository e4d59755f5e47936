"""What has to be done to a picture before it is pixels, told from the head of its file."""

from __future__ import annotations

import io

_ORIENTATION = 0x0112
_DEEP = ("I", "F")


def conversions(data: bytes) -> list[str]:
    """What decoding a file does beside decoding, in a few words each; nothing for files that are no pictures.

    The pixels are not decoded.
    """
    from PIL import Image

    if data[:6] == b"\x93NUMPY":
        return []
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _told(image)
    except Exception:
        return []  # reported as a bad file by whoever decodes it


def _told(image: object) -> list[str]:
    from PIL import Image

    assert isinstance(image, Image.Image)
    found = []
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        found.append("transparency, composited over white unless data.channels keeps it")
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        found.append("turned or mirrored as their EXIF orientation says")
    if image.mode == "P":
        found.append("palette to RGB")
    elif image.mode not in ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "PA", *_DEEP) and not image.mode.startswith(
        "I;16"
    ):
        found.append(f"{image.mode} to RGB")
    if getattr(image, "n_frames", 1) > 1 and image.format != "TIFF":
        found.append("the first frame of several")
    return found
