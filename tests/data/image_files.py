"""Generated image files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encode(array: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    """An array ``[h, w]`` or ``[h, w, c]`` as the bytes of an image file."""
    image = Image.fromarray(array)
    if mode is not None:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def noise(seed: int, height: int = 12, width: int = 16, channels: int = 3) -> np.ndarray:
    """Smooth colour noise ``[h, w, c]``, different for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))[..., :channels].squeeze()
