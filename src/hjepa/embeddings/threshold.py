"""How similar near copies are to a model: measured on altered copies of the user's own images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa.data.dataset import ImageDataset, MemoryPixels
from hjepa.embeddings.encoding import NAME, Encoding, directions, embedding_reader
from hjepa.errors import DataError
from hjepa.evaluation.features import encode
from hjepa.runtime.random import Purpose, stream

if TYPE_CHECKING:
    from hjepa.embeddings.images import Images
    from hjepa.evaluation.features import View
    from hjepa.models import Encoder

SAMPLE = 200
"""Images of which altered copies are made."""
FOUND = 0.95
"""Share of the copies that the threshold finds."""
SCORE = 3.5
"""Robust standard deviations between copies and the nearest neighbours of different images."""
FALLBACK = 0.98
"""Threshold when the images cannot be read, so that no copies can be made."""
_QUALITY, _SHRINK = 75, 0.75
# Distances of copies with the same pixels, and the smallest that float32 can tell.
_SAME, _TINY = 1e-6, 1e-9


@dataclass(frozen=True)
class Threshold:
    """A threshold of cosine similarity for near copies.

    Attributes:
        value: similarity at or above which two images count as near copies, -1 to 1.
        chosen: how it was chosen, in words.
        found: by kind of alteration, the share of altered copies that it finds, 0 to 1; empty if none were made.
        sample: number of images of which copies were made.
    """

    value: float
    chosen: str
    found: dict[str, float]
    sample: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"value": self.value, "chosen": self.chosen, "copies_found": self.found, "sample": self.sample}


def choose_threshold(
    second: NDArray[np.float32], copies: Mapping[str, Tensor], *, given: float | None = None
) -> Threshold:
    """The threshold for a model and a set of images: the larger of two.

    * What 95 % of re-encoded and shrunk copies of these images reach.
    * What is far above the usual similarity of different images: with d = 1 - similarity to the second neighbour, log d
      lies `SCORE` robust standard deviations (from the median absolute deviation) below its median. The second, as the
      first of many may be a copy. Where different images look as alike as copies do, this limit decides, and fewer copies
      are found, which `Threshold.found` tells.

    Mirrored copies are measured, but do not set the threshold: models trained without them may tell them apart.

    Args:
        second: [N], similarity of every image to its second nearest neighbour.
        copies: by kind of alteration, similarities of altered copies to their originals; `measure_copies`.
        given: a threshold to measure instead of choosing one.
    """
    usual = _unusual(second)
    setting = [copies[kind] for kind in ("re-encoded", "shrunk") if kind in copies]
    if given is not None:
        value, how = given, "given"
    elif setting:
        # A little below, as products are rounded differently in batches of another size.
        reached = float(torch.quantile(torch.cat(setting), 1 - FOUND)) - 1e-6
        value = max(reached, usual)
        how = (
            f"reached by {FOUND:.0%} of re-encoded and shrunk copies"
            if reached >= usual
            else "well above the usual similarity of different images"
        )
    else:
        value, how = max(FALLBACK, usual), "fixed, as no copies could be made"
    found = {kind: float((values >= value).double().mean()) for kind, values in copies.items()}
    return Threshold(value, how, found, max((len(values) for values in copies.values()), default=0))


def _unusual(second: NDArray[np.float32]) -> float:
    logs = np.log(np.maximum(1 - second.astype(np.float64), _TINY))
    # Exact copies say nothing about different images.
    logs = logs[logs > np.log(_SAME)] if (logs > np.log(_SAME)).any() else logs
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    return float(1 - np.exp(middle - SCORE * spread))


def measure_copies(
    encoder: Encoder, encoding: Encoding, images: Images, view: View, *, seed: int = 0
) -> dict[str, Tensor]:
    """Make altered copies of up to `SAMPLE` images and compare them with their originals.

    Args:
        encoder: in evaluation mode.
        encoding: what is compared.
        images: the user's images.
        view: how they are prepared.
        seed: draws the sample.

    Returns:
        by kind of alteration, the cosine similarity of each copy to its original; empty if no image can be read.
    """
    originals: list[Tensor] = []
    for index in np.sort(stream(Purpose.READ, seed).permutation(len(images))[:SAMPLE]).tolist():
        try:
            originals.append(images.read(index))
        except DataError:
            continue
    kinds = {kind: alter for kind, alter in ALTERATIONS.items() if all(_can(kind, image) for image in originals)}
    if not originals:
        return {}
    before = _directions(originals, encoder, encoding, view)
    return {
        kind: (before * _directions([alter(image) for image in originals], encoder, encoding, view)).sum(dim=1)
        for kind, alter in kinds.items()
    }


def _directions(pictures: list[Tensor], encoder: Encoder, encoding: Encoding, view: View) -> Tensor:
    names = [str(i) for i in range(len(pictures))]
    dataset = ImageDataset(
        MemoryPixels(pictures), name="copies", split="train", channels=len(pictures[0]), identifiers=names
    )
    features, _ = encode(dataset, None, [embedding_reader(encoder, encoding)], view)
    return directions(features[NAME], encoding)


def _can(kind: str, image: Tensor) -> bool:
    return kind != "re-encoded" or (image.dtype == torch.uint8 and len(image) in (1, 3))


def re_encoded(image: Tensor) -> Tensor:
    """An image [C, h, w] uint8 of one or three channels, saved as JPEG of quality 75 and read again."""
    from PIL import Image

    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if len(image) == 1 else array)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    read = np.array(Image.open(file))
    return torch.from_numpy(read[None] if len(image) == 1 else read.transpose(2, 0, 1)).contiguous()


def shrunk(image: Tensor) -> Tensor:
    """An image [C, h, w] with three quarters of its height and width."""
    size = [max(1, math.ceil(_SHRINK * side)) for side in image.shape[1:]]
    small = torch.nn.functional.interpolate(image.float()[None], size=size, mode="bilinear", antialias=True)[0]
    if image.is_floating_point():
        return small
    return small.round().clamp(0, 255 if image.dtype == torch.uint8 else 65535).to(image.dtype)


def mirrored(image: Tensor) -> Tensor:
    """An image [C, h, w] with left and right exchanged."""
    return image.flip(2)


ALTERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "re-encoded": re_encoded,
    "shrunk": shrunk,
    "mirrored": mirrored,
}
"""Kinds of copies, by name."""
