"""First pass over a split: number of channels, whether it fits in memory, and its bad files.

Sets of up to 2 GiB decoded are decoded once and kept in memory. Larger sets of up to 50,000 files are decoded once as
well, so that every bad file is known before the first step. In larger sets, workers report bad files when they read
them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hjepa.data.dataset import BadFile, EncodedPixels, MemoryPixels, Pixels
from hjepa.data.images.decode import UnreadableImageError, decode, grey_to_colour
from hjepa.errors import DataError

log = logging.getLogger("hjepa")

MEMORY_LIMIT = 2 * 2**30
"""Largest size in bytes of decoded images to keep in memory."""
SCAN_LIMIT = 50_000
"""Largest number of files to decode once before the first step."""

_PROBES = 256
_CHUNK = 256
# Files below this size decode faster than they can be handed to a thread.
_THREADED_BYTES = 20_000

Storage = Literal["auto", "device", "workers"]


class Probe:
    """Statistics of a sample of files, evenly spaced over the set.

    Args:
        pixels: the encoded images.

    Attributes:
        plane_bytes: mean decoded bytes per image and channel.
        file_bytes: mean encoded bytes per image.
    """

    def __init__(self, pixels: EncodedPixels) -> None:
        rows = np.unique(np.linspace(0, len(pixels) - 1, num=min(len(pixels), _PROBES)).astype(np.int64))
        self._kinds: Counter[int] = Counter()
        plane_bytes, file_bytes = [0], [0]
        for row in rows.tolist():
            try:
                data = pixels.load(row)
                decoded = decode(data)
            except (OSError, UnreadableImageError):
                continue  # reported when the file is read for use
            self._kinds[decoded.pixels.shape[0] - decoded.alpha] += 1
            plane_bytes.append(decoded.pixels[0].numel() * decoded.pixels.element_size())
            file_bytes.append(len(data))
        good = max(1, self._kinds.total())
        self.plane_bytes = sum(plane_bytes) / good
        self.file_bytes = sum(file_bytes) / good

    def channels(self) -> int:
        """The number of channels of all files, without alpha; 3 if greyscale and colour are mixed.

        Raises:
            DataError: any other mix of channels.
        """
        kinds = self._kinds
        if len(kinds) == 1:
            return next(iter(kinds))
        if not set(kinds) <= {1, 3}:
            counts = ", ".join(f"{count} with {channels}" for channels, count in sorted(kinds.items()))
            raise DataError(
                f"data.channels: the files have different numbers of channels ({counts} of {kinds.total()} probed); "
                "set data.channels, and keep only files that can be converted to it"
            )
        return 3


def convert_memory(pixels: MemoryPixels, channels: int, name: str) -> MemoryPixels:
    """Convert images in memory to ``channels`` channels. Raises `DataError` if they cannot be converted."""
    assert isinstance(pixels.images, Tensor)  # sources that decode images return one tensor
    converted = grey_to_colour(pixels.images, channels)
    if converted is None:
        have = pixels.images.shape[1]
        raise DataError(
            f"data.channels: {name} has {have} channels, which cannot be converted to {channels}; use 1 or 3"
        )
    return MemoryPixels(converted)


def settle(
    pixels: EncodedPixels,
    channels: int,
    identifiers: Sequence[str],
    storage: Storage,
    probe: Probe | None = None,
    *,
    check: bool = True,
) -> tuple[Pixels, list[int], list[BadFile]]:
    """Decide how a split is stored, decoding its files once unless there are too many.

    Args:
        pixels: the encoded images.
        channels: channels to convert to.
        identifiers: names of the images.
        storage: ``data.storage``.
        probe: statistics of the files, if already known.
        check: decode files that are not kept in memory too, to find the bad ones before they are used.

    Returns:
        The images (in memory if they fit and ``storage`` allows it), the indices of the readable ones, the bad files.
    """
    count = len(pixels)
    probe = Probe(pixels) if probe is None else probe
    pixels = pixels.with_channels(channels)
    keep = storage == "device" or (storage == "auto" and count * channels * probe.plane_bytes <= MEMORY_LIMIT)
    if not keep and not check:
        return pixels, list(range(count)), []
    if not keep and not worth_scanning(count):
        log.info("not checking %d files before training; bad files are reported when they are read", count)
        return pixels, list(range(count)), []
    images: list[Tensor] = []
    kept: list[int] = []
    bad: list[BadFile] = []
    total = 0
    for index, result in enumerate(_read_all(pixels, threaded=probe.file_bytes > _THREADED_BYTES)):
        if isinstance(result, str):
            bad.append(BadFile(identifiers[index], result))
            continue
        kept.append(index)
        if keep:
            images.append(result)
            total += result.numel() * result.element_size()
            if storage == "auto" and total > MEMORY_LIMIT:
                # The probe underestimated the size. Continue to decode as a check, without keeping the images.
                keep = False
                images.clear()
    if keep:
        return MemoryPixels(_stack(images)), kept, bad
    return pixels.select(kept), kept, bad


def worth_scanning(count: int) -> bool:
    """Whether a set of ``count`` files is decoded once before the first step, even if it is not kept in memory."""
    return count <= SCAN_LIMIT


def scan(pixels: EncodedPixels, channels: int, identifiers: Sequence[str]) -> list[BadFile]:
    """Decode every file once, without keeping the images, and return the bad ones."""
    results = _read_all(pixels.with_channels(channels), threaded=Probe(pixels).file_bytes > _THREADED_BYTES)
    return [BadFile(name, result) for name, result in zip(identifiers, results, strict=True) if isinstance(result, str)]


def _read_all(pixels: EncodedPixels, threaded: bool) -> Iterator[Tensor | str]:
    def read(index: int) -> Tensor | str:
        try:
            return pixels.read(index)
        except UnreadableImageError as error:
            return str(error)

    if not threaded:
        yield from map(read, range(len(pixels)))
        return
    # In chunks, so that at most one chunk of images waits in memory.
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for start in range(0, len(pixels), _CHUNK):
            yield from pool.map(read, range(start, min(start + _CHUNK, len(pixels))))


def _stack(images: list[Tensor]) -> Tensor | list[Tensor]:
    first = images[0] if images else None
    if first is None or any(image.shape != first.shape or image.dtype != first.dtype for image in images):
        return images
    stacked = torch.empty((len(images), *first.shape), dtype=first.dtype)
    for row in range(len(images)):
        stacked[row] = images[row]
        images[row] = first  # frees each image once copied, so that the set is not in memory twice
    return stacked
