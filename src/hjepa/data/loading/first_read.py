"""Reading a split for the first time: number of channels, memory or not, and every bad file.

Sets that fit (2 GiB decoded) are decoded once and stay in memory. Larger ones of up to 50,000 files are decoded once
all the same, so that every bad file is known before the first step; beyond that, workers report what they meet.
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
"""Bytes of decoded images that are kept in memory."""
SCAN_LIMIT = 50_000
"""Files up to which a set is decoded once before the first step."""

_PROBES = 256
_CHUNK = 256
# Below this size of a file a thread costs more than it decodes.
_THREADED_BYTES = 20_000

Storage = Literal["auto", "device", "workers"]


class Probe:
    """What a sample of files, evenly spaced over the set, looks like.

    Attributes:
        plane_bytes: decoded bytes per image and channel.
        file_bytes: encoded bytes per image.
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
                continue  # met again, and reported, when the file is read for use
            self._kinds[decoded.pixels.shape[0] - decoded.alpha] += 1
            plane_bytes.append(decoded.pixels[0].numel() * decoded.pixels.element_size())
            file_bytes.append(len(data))
        good = max(1, self._kinds.total())
        self.plane_bytes = sum(plane_bytes) / good
        self.file_bytes = sum(file_bytes) / good

    def channels(self) -> int:
        """The number of channels, opacity aside, that all files have, or 3 where grey and colour are mixed.

        Raises:
            DataError: any other mixture.
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
    """Convert images in memory to ``channels`` channels. Raises `DataError` where there is no way."""
    assert isinstance(pixels.images, Tensor)  # sources that decode themselves hand over one tensor
    converted = grey_to_colour(pixels.images, channels)
    if converted is None:
        have = pixels.images.shape[1]
        raise DataError(f"data.channels: {name} has {have} channels, which cannot become {channels}; use 1 or 3")
    return MemoryPixels(converted)


def settle(
    pixels: EncodedPixels, channels: int, identifiers: Sequence[str], storage: Storage, probe: Probe | None = None
) -> tuple[Pixels, list[int], list[BadFile]]:
    """Read the files of a split once, as far as that is due.

    Args:
        pixels: the files.
        channels: what they are converted to.
        identifiers: their names.
        storage: ``data.storage``.
        probe: what the files look like, where that is known already.

    Returns:
        The images (in memory where they fit and ``storage`` allows), the positions that are kept, the bad files.
    """
    count = len(pixels)
    probe = Probe(pixels) if probe is None else probe
    pixels = pixels.with_channels(channels)
    keep = storage == "device" or (storage == "auto" and count * channels * probe.plane_bytes <= MEMORY_LIMIT)
    if not keep and not worth_scanning(count):
        log.info("%d files are not checked beforehand; bad ones are reported as they are met", count)
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
                # The sample was smaller than the set. Go on decoding to check, without keeping.
                keep = False
                images.clear()
    if keep:
        return MemoryPixels(_stack(images)), kept, bad
    return pixels.select(kept), kept, bad


def worth_scanning(count: int) -> bool:
    """Whether a set of so many files is decoded once before the first step, whatever is kept of it."""
    return count <= SCAN_LIMIT


def scan(pixels: EncodedPixels, channels: int, identifiers: Sequence[str]) -> list[BadFile]:
    """The bad files among some, every one decoded and let go."""
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
    # In chunks, so that no more than one chunk of undelivered images lies in memory.
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
        images[row] = first  # frees as it goes, so that the set does not lie in memory twice
    return stacked
