"""Strict decoding of image files to tensors in their stored size and type.

Truncated files and files that are not images raise an error with a reason, regardless of Pillow's global settings.
Pixels are converted as follows:

* The EXIF orientation is applied.
* Palettes, CMYK and other colour spaces become RGB; 1-bit images become greyscale.
* Transparent images are composited over white when channels are converted: colours stored under transparent pixels are
  arbitrary, and training would otherwise see content that no viewer shows.
* 16-bit greyscale and 16-bit PNG colour stay uint16. Floating-point images must be in [0, 1].
* The pages of a TIFF become the channels of one image if they are greyscale and equal in size; of other animations the
  first frame is used. NumPy files (``.npy``) hold [h, w] or [C, h, w], with any number of channels.
"""

from __future__ import annotations

import functools
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".npy")
"""The most common suffixes of image files; `picture_suffixes` has all."""

# Formats that Pillow registers but needs an external program for, or whose suffixes usually mean something else: .pcd
# is a point cloud, .fit a sports watch recording, .mpg a video.
_NO_PICTURES = frozenset({"EPS", "MPEG", "PCD", "PDF"})
_NO_PICTURE_SUFFIXES = frozenset({".fit"})

# Weights of ITU-R BT.601, as in Pillow's mode L.
LUMINANCE = (0.299, 0.587, 0.114)

# Entries of Pillow's `info` that may hold an orientation. Without any of them the orientation is not parsed, as that
# takes as long as decoding a small image.
_MAY_TURN = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})

_strict_lock = threading.Lock()

Reduction = Callable[[int, int], int]
"""Maps an image's height and width to the factor by which it may be decoded smaller: 1, 2, 4 or 8."""


class UnreadableImageError(Exception):
    """The bytes cannot be decoded to a usable image; the message is the reason in a few words."""


class Decoded(NamedTuple):
    """A decoded image."""

    pixels: Tensor
    """[C, h, w] uint8, uint16 or float32."""
    alpha: bool
    """Whether the last channel is opacity (alpha)."""
    reduction: int = 1
    """Factor by which both axes are smaller than in the file."""


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of files that are read as images, in lower case: those that the installed Pillow opens, and ``.npy``."""
    from PIL import Image, ImageFile

    Image.init()
    found = {".npy"}
    for suffix, kind in Image.registered_extensions().items():
        reader = Image.OPEN.get(kind, (None,))[0]
        # A stub reader identifies a format without being able to decode it.
        stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)
        if reader is not None and not stub and kind not in _NO_PICTURES:
            found.add(suffix.lower())
    return frozenset(found - _NO_PICTURE_SUFFIXES)


def is_picture(name: str) -> bool:
    """Whether a file's suffix is one of `picture_suffixes`."""
    return os.path.splitext(name)[1].lower() in picture_suffixes()  # noqa: PTH122 (called for every file of a set)


def decode(data: bytes, *, planar: bool = True, reduction: Reduction | None = None) -> Decoded:
    """Decode one file.

    Args:
        data: the bytes of the file.
        planar: whether to store pixels channel by channel; otherwise they stay in decoding order, which saves a copy.
        reduction: returns the factor by which a JPEG image may be decoded smaller, which saves most of the work for
            large images. Not called for other formats, nor for images with an EXIF orientation.

    Returns:
        The image, [C, h, w].

    Raises:
        UnreadableImageError: the file is empty, truncated, not an image, or of an unsupported kind.
    """
    if not data:
        raise UnreadableImageError("empty file")
    if data[:6] == b"\x93NUMPY":
        return Decoded(_decode_numpy(data), alpha=False)
    # Pillow would reduce 16-bit colour PNG to 8 bits. Byte 24 is the bit depth, byte 25 the colour type (2, 4, 6: not
    # plain grey).
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10" and data[25:26] in (b"\x02", b"\x04", b"\x06"):
        return _decode_png16(data)
    return _decode_pillow(data, planar, reduction)


def convert_channels(decoded: Decoded, channels: int) -> Tensor:
    """Convert to ``channels`` channels, keeping the type.

    Returns:
        [channels, h, w].

    Raises:
        UnreadableImageError: the image's channels cannot be converted.
    """
    pixels, alpha = decoded.pixels, decoded.alpha
    if pixels.shape[0] == channels and not (alpha and channels in (1, 3)):
        return pixels
    if alpha and channels in (1, 3):
        pixels = _over_white(pixels)
    converted = grey_to_colour(pixels, channels)
    if converted is None:
        raise UnreadableImageError(
            f"has {decoded.pixels.shape[0]} channels, which cannot be converted to data.channels={channels}"
        )
    return converted


def grey_to_colour(pixels: Tensor, channels: int) -> Tensor | None:
    """Greyscale to colour by repetition, colour to greyscale by luminance; None for any other pair.

    Args:
        pixels: [..., C, h, w].
        channels: 1 or 3, or C itself.
    """
    have = pixels.shape[-3]
    if have == channels:
        return pixels
    if have == 1 and channels == 3:
        return torch.cat([pixels] * 3, dim=-3)
    if have == 3 and channels == 1:
        red, green, blue = (pixels.select(-3, i).to(torch.float32) for i in range(3))
        grey = red * LUMINANCE[0] + green * LUMINANCE[1] + blue * LUMINANCE[2]
        return _like(grey, pixels).unsqueeze(-3)
    return None


def unit_scale(dtype: torch.dtype) -> float:
    """Factor that scales pixels of a type to [0, 1]."""
    return {torch.uint8: 1 / 255, torch.uint16: 1 / 65535, torch.float32: 1.0}[dtype]


def _like(values: Tensor, original: Tensor) -> Tensor:
    if original.dtype == torch.float32:
        return values
    # Through int32: rounding to uint16 directly is not implemented on every device.
    return values.round().to(torch.int32).to(original.dtype)


def _over_white(pixels: Tensor) -> Tensor:
    top = round(1 / unit_scale(pixels.dtype))
    values = pixels.to(torch.float32)
    opacity = values[-1:] / top
    return _like(values[:-1] * opacity + (1 - opacity) * top, pixels)


def _decode_png16(data: bytes) -> Decoded:
    try:
        # Deprecated in torchvision, but Pillow would silently drop the lower eight bits.
        from torchvision.io import decode_png
    except ImportError:
        raise UnreadableImageError(
            "16-bit colour PNG, which this version of torchvision cannot read; convert it to .npy"
        ) from None
    try:
        pixels: Tensor = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        raise UnreadableImageError("truncated or damaged PNG") from None
    return Decoded(pixels, alpha=pixels.shape[0] in (2, 4))


def _decode_numpy(data: bytes) -> Tensor:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise UnreadableImageError("truncated or damaged NumPy file") from None
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise UnreadableImageError(f"array of shape {array.shape}; expected [h, w] or [channels, h, w]")
    return _checked(array)


def _checked(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        # Negated, so that NaN fails too.
        if not (array.min() >= 0 and array.max() <= 1):
            raise UnreadableImageError("floating-point values outside [0, 1]; scale them, or store uint8 or uint16")
    elif array.dtype == np.uint16 or array.dtype.newbyteorder("=") == np.uint16:
        array = array.astype(np.uint16)
    elif array.dtype != np.uint8:
        raise UnreadableImageError(f"values of type {array.dtype}; expected uint8, uint16 or floats in [0, 1]")
    return torch.from_numpy(np.array(array, order="C"))


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Context that switches off ``LOAD_TRUNCATED_IMAGES``, which other libraries set for the whole process."""
    from PIL import ImageFile

    if not ImageFile.LOAD_TRUNCATED_IMAGES:
        yield
        return
    with _strict_lock:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = True


def _decode_pillow(data: bytes, planar: bool, reduction: Reduction | None) -> Decoded:
    from PIL import Image, ImageOps, UnidentifiedImageError

    with _strict_pillow():
        try:
            image: Image.Image = Image.open(io.BytesIO(data))
            frames = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            if frames > 1:
                pages = _pages(image, frames)
                if pages is not None:
                    return Decoded(pages, alpha=False)
            factor = 1 if reduction is None else _reduce(image, reduction)
            image.load()
            if not _MAY_TURN.isdisjoint(image.info):
                image = ImageOps.exif_transpose(image)
        except UnidentifiedImageError:
            raise UnreadableImageError(_unidentified(data)) from None
        except Image.DecompressionBombError:
            raise UnreadableImageError("more than 178 million pixels") from None
        except MemoryError:
            raise
        except Exception as error:
            # Pillow's readers raise many types for damaged files: OSError, SyntaxError, TypeError, zlib.error...
            raise UnreadableImageError(f"truncated or damaged ({_one_line(error)})") from None
    return _to_tensor(image, planar)._replace(reduction=factor)


def _reduce(image: Image.Image, reduction: Reduction) -> int:
    """Set up a JPEG file to be decoded smaller; return the factor."""
    # Crops refer to the upright image, so images with an orientation are decoded in full size.
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or not _MAY_TURN.isdisjoint(image.info):
        return 1
    width, height = image.size
    factor = reduction(height, width)
    if factor > 1:
        image.draft(image.mode, (width // factor, height // factor))
    return factor


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unidentified(data: bytes) -> str:
    if data[:4] in (b"II*\x00", b"MM\x00*"):
        return "unsupported kind of TIFF; convert 16-bit colour to PNG, and images with more channels to .npy"
    return "not an image"


def _pages(image: Image.Image, frames: int) -> Tensor | None:
    """The pages as channels if they are greyscale and equal in size; else None, with the image at its first page."""
    size, mode = image.size, image.mode
    pages = []
    if mode == "L" or mode.startswith("I;16"):
        for index in range(frames):
            image.seek(index)
            if image.size != size or image.mode != mode:
                break
            pages.append(np.asarray(image))
    if len(pages) == frames:
        return _checked(np.stack(pages))
    image.seek(0)
    return None


def _to_tensor(image: Image.Image, planar: bool) -> Decoded:
    mode = image.mode
    if mode.startswith("I;16") or mode == "F":
        return Decoded(_checked(np.asarray(image)[None]), alpha=False)
    if mode == "I":
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise UnreadableImageError("32-bit integers outside the range of uint16; convert to uint8 or uint16")
        return Decoded(torch.from_numpy(array.astype(np.uint16)[None]), alpha=False)
    if mode in ("La", "RGBa"):
        image = image.convert(mode.upper())
    elif mode == "PA" or "transparency" in image.info:
        image = image.convert("RGBA")
        if mode in ("1", "L"):
            image = image.convert("LA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    array = np.array(image)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if planar:
        array = np.ascontiguousarray(array)
    return Decoded(torch.from_numpy(array), alpha=image.mode in ("LA", "RGBA"))
