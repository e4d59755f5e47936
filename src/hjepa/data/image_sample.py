"""Recognise the images of a run wherever they lie, by a sample of them that the run records.

The sample holds hashes only, so a checkpoint or a packed model that is passed on reveals no file names.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hjepa.data.dataset import EncodedPixels, ImageDataset, MemoryPixels
from hjepa.data.images.decode import UnreadableImageError

if TYPE_CHECKING:
    from hjepa.data.listing import Listing

OWN_SOURCES = ("folder", "parquet", "webdataset")
"""Values of ``data.dataset`` for images of the user's own; all others are told apart by their names."""

ImageSample = list[list[str]]
"""Three hashes per image: of its file name with the folder it is in, of its file name, and of its pixels."""

_IMAGES = 64
# Images read for each image of the sample, at most: many classes may have files of the same name.
_CANDIDATES = 8


def sample_images(images: ImageDataset | Listing) -> ImageSample | None:
    """Hashes of up to 64 images, evenly spread over a split; unreadable images are left out.

    Returns:
        None if shards would have to be downloaded to read names and images.
    """
    if images.shards is not None and images.shards.fetched:
        return None
    sample = []
    for row in np.unique(np.linspace(0, len(images) - 1, min(_IMAGES, len(images))).astype(int)).tolist():
        digest = _pixels(images.pixels, row)
        if digest is not None:
            sample.append([*_names(images.identifiers[row]), digest])
    return sample


def occurs_in(sample: ImageSample, listing: Listing, channels: int) -> bool | None:
    """Whether a data set contains an image of the sample, with the same file name and the same pixels.

    Reads only images that have the file name of one in the sample.

    Args:
        sample: as returned by `sample_images`.
        listing: the data set, or a split of it.
        channels: channels of the images in the sample.

    Returns:
        None if shards would have to be downloaded to tell.
    """
    if listing.shards is not None and listing.shards.fetched:
        return None
    wanted = {key for long, short, _ in sample for key in (long, short)}
    rows: dict[str, list[int]] = {}
    for row, identifier in enumerate(listing.identifiers):
        for key in _names(identifier):
            if key in wanted and len(rows.setdefault(key, [])) < _CANDIDATES:
                rows[key].append(row)
    pixels = listing.pixels.with_channels(channels) if isinstance(listing.pixels, EncodedPixels) else listing.pixels
    return any(
        _pixels(pixels, row) == digest for long, short, digest in sample for row in rows.get(long, rows.get(short, []))
    )


def _names(identifier: str) -> tuple[str, str]:
    parts = identifier.split("/")
    return _hash("/".join(parts[-2:])), _hash(parts[-1])


def _pixels(pixels: EncodedPixels | MemoryPixels, row: int) -> str | None:
    try:
        return pixel_hash(pixels.read(row)).hex()
    except UnreadableImageError:
        return None


def pixel_hash(image: Tensor) -> bytes:
    """Hash of the size, type and pixels of an image [C, h, w]."""
    kind = str(image.dtype).removeprefix("torch.")
    digest = hashlib.blake2b(f"{kind}{tuple(image.shape)}".encode(), digest_size=16)
    digest.update(image.contiguous().numpy().data)
    return digest.digest()


def _hash(name: str) -> str:
    # Names of files may hold bytes that are not text.
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
