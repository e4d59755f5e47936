"""Write a data set as shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hjepa.data.build import build_dataset
from hjepa.data.dataset import BadFile, EncodedPixels, ImageDataset, Split
from hjepa.data.images.decode import UnreadableImageError, picture_suffixes
from hjepa.data.shards.catalogue import LIST_NAME
from hjepa.errors import DataError, UserError
from hjepa.runtime.random import Purpose, stream

if TYPE_CHECKING:
    from hjepa.config import DataConfig

# Suffix by the first bytes of a file, for names without one.
_MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
    b"\x93NUMPY": ".npy",
    b"P5": ".pgm",
    b"P6": ".ppm",
}


def write_shards(
    data: DataConfig, output: Path, *, samples_per_shard: int = 1000, seed: int = 0
) -> dict[str, tuple[int, int]]:
    """Write the splits of a data set as tar files in the WebDataset layout.

    Validation images are written as a split if the data set defines them besides train and test.

    Encoded files are copied unchanged. Images that a source has decoded are written as PNG, or as ``.npy`` if PNG does
    not support them. The order is random, so that every shard has images of all classes. Labels are class numbers in
    ``.cls`` files; ``shards.json`` lists the shards and the class names.

    Args:
        data: the ``data`` section.
        output: an empty or new folder.
        samples_per_shard: images per shard; the last shard may have fewer.
        seed: seed of the run; draws the order, the subset, and the splits that the data set does not define.

    Returns:
        (images, shards) by split.

    Raises:
        UserError: the folder is not empty or cannot be written.
        DataError: as `hjepa.data.build_dataset`.
    """
    _check_empty(output)
    # Keep the encoded files instead of decoding them into memory.
    data = data.model_copy(update={"storage": "workers"})
    entries: list[dict[str, Any]] = []
    written: dict[str, tuple[int, int]] = {}
    names: tuple[str, ...] | None = None
    splits: tuple[Split, ...] = ("train", "validation", "test")
    own_validation = False
    for split in splits:
        if split == "validation" and not own_validation:
            continue  # they will be drawn from train again
        try:
            dataset = build_dataset(data, split, seed=seed)
            own_validation = dataset.division.own_validation
        except DataError:
            # A data set may have no test images.
            if split == "train" or data.bad_images == "stop":
                raise
            continue
        names = dataset.class_names if dataset.class_names is not None else names
        try:
            new = list(_write_split(dataset, output, samples_per_shard, seed))
        except OSError as error:
            raise UserError(f"{output}: cannot be written ({error.strerror}); choose another folder") from None
        entries += new
        written[split] = sum(entry["nsamples"] for entry in new), len(new)
    tree: dict[str, Any] = {"wids_version": 1, "name": dataset.description, "shardlist": entries}
    if names is not None:
        tree["class_names"] = list(names)
    (output / LIST_NAME).write_text(json.dumps(tree), encoding="utf-8")
    return written


def _check_empty(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise UserError(f"{output}: the folder is not empty; give an empty one")
    except OSError as error:
        raise UserError(f"{output}: cannot be created ({error.strerror}); choose another folder") from None


def _write_split(dataset: ImageDataset, output: Path, samples_per_shard: int, seed: int) -> Iterator[dict[str, Any]]:
    order = stream(Purpose.SHARDS, seed).permutation(len(dataset))
    (output / dataset.split).mkdir()
    samples = _samples(dataset, order)
    number = 0
    while True:
        labels: list[int | None] = []
        url = f"{dataset.split}/shard-{number:06d}.tar"
        file = output / url
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
                for suffix, content, label in samples:
                    key = f"{number * samples_per_shard + len(labels):09d}"
                    _add(archive, key + suffix, content)
                    if label is not None:
                        _add(archive, f"{key}.cls", str(label).encode())
                    labels.append(label)
                    if len(labels) == samples_per_shard:
                        break
            if not labels:
                return
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        entry = {"url": url, "split": dataset.split, "nsamples": len(labels), "filesize": file.stat().st_size}
        if dataset.labels is not None:
            entry["labels"] = labels
        yield entry
        number += 1


def _samples(dataset: ImageDataset, order: np.ndarray) -> Iterator[tuple[str, bytes, int | None]]:
    """Suffix, bytes and label of every readable image."""
    for row in order.tolist():
        label = None if dataset.labels is None else int(dataset.labels[row])
        try:
            suffix, content = _content(dataset, row)
        except (UnreadableImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            dataset.note_bad(BadFile(dataset.identifiers[row], reason))
            continue
        yield suffix, content, None if label is None or label < 0 else label


def _content(dataset: ImageDataset, row: int) -> tuple[str, bytes]:
    pixels = dataset.pixels
    if not isinstance(pixels, EncodedPixels):
        return _encoded(pixels.read(row))
    content = pixels.load(row)
    suffix = PurePosixPath(dataset.identifiers[row]).suffix.lower()
    if suffix not in picture_suffixes():
        suffix = next((s for magic, s in _MAGIC.items() if content.startswith(magic)), "")
        suffix = suffix or (".webp" if content[8:12] == b"WEBP" else _told_by_pillow(content))
    if not suffix:
        raise UnreadableImageError("unknown image format")
    return suffix, content


def _told_by_pillow(content: bytes) -> str:
    """The suffix of a format that Pillow identifies, empty if it identifies none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            kind = image.format
    except (UnidentifiedImageError, OSError, ValueError):
        return ""
    known = sorted(s for s, name in Image.registered_extensions().items() if name == kind and s in picture_suffixes())
    return known[0] if known else ""


def _encoded(image: Tensor) -> tuple[str, bytes]:
    from PIL import Image

    file = io.BytesIO()
    if image.dtype == torch.uint8 and image.shape[0] in (1, 3):
        array = image.numpy()[0] if len(image) == 1 else np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        Image.fromarray(array).save(file, "PNG")
        return ".png", file.getvalue()
    np.save(file, image.numpy(), allow_pickle=False)
    return ".npy", file.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # Without time and owner, so that equal images give equal bytes.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
