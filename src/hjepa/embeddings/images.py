"""Find the images that a command was given: by the name of a data set, or in a folder, Parquet files or tar shards."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.config import DATASETS, Config, load_config, parse_override
from hjepa.data.build import build_whole
from hjepa.data.dataset import ImageDataset
from hjepa.data.image_sample import sample_images
from hjepa.data.images.decode import is_picture
from hjepa.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

OWN = ("folder", "parquet", "webdataset")
NAMED = tuple(name for name in DATASETS if name not in OWN)
# Keys that find and read images. All others describe the model or divide a data set, which is always used whole here.
_CHANGEABLE = (
    "data.dataset",
    "data.data_path",
    "data.download",
    "data.num_workers",
    "data.pin_memory",
    "data.storage",
    "data.cache_dir",
    "data.cache_gib",
    "data.classes_file",
    "data.labels_file",
    "data.exclude",
    "data.bad_images",
)
_SMALLEST_BATCH = 64
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Images:
    """All images that a command was given.

    Attributes:
        config: the run's configuration with the keys of these images.
        parts: one set for each split that the data set defines; together all of its images.
    """

    config: Config
    parts: list[ImageDataset]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def bad_files(self) -> int:
        """Files that are known not to be readable; more may be found when the others are read."""
        return sum(len(part.bad_files) for part in self.parts)

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return any(part.labels is not None for part in self.parts)

    @property
    def where(self) -> dict[str, Any]:
        """What finds the same images again, as plain values."""
        data = self.config.data
        path = None if data.data_path is None else str(data.data_path)
        # A URL or a name on the hub is no path on this machine.
        if path is not None and Path(path).exists():
            path = str(Path(path).resolve())
        given = {"labels_file": data.labels_file, "classes_file": data.classes_file}
        files = {key: str(Path(value).resolve()) for key, value in given.items() if value is not None}
        return {"dataset": data.dataset, "data_path": path, "exclude": list(data.exclude), **files}

    def path(self, part: int, row: int) -> str:
        """Path of an image: relative to the folder that was given, or as its data set names it."""
        return _text(self.parts[part].identifiers[row])

    def label(self, part: int, row: int) -> str | None:
        """Name of the class of one image; None without a label."""
        dataset = self.parts[part]
        if dataset.labels is None:
            return None
        number = int(dataset.labels[row])
        if number < 0:
            return None
        return str(number) if dataset.class_names is None else dataset.class_names[number]

    def locate(self, index: int) -> tuple[int, int]:
        """Part and row of an image, counted over all parts."""
        for part, dataset in enumerate(self.parts):
            if index < len(dataset):
                return part, index
            index -= len(dataset)
        raise IndexError(index)

    def read(self, index: int) -> Tensor:
        """Pixels of an image, counted over all parts, in its stored size and type. Raises `DataError`."""
        part, row = self.locate(index)
        return self.parts[part].read(row)

    def digest(self) -> str:
        """Hash of the names of all images, the sizes of files, and the pixels of an even sample of up to 64 per part."""
        total = hashlib.blake2b(digest_size=16)
        root = self.config.data.data_path if self.config.data.dataset == "folder" else None
        for dataset in self.parts:
            for name in dataset.identifiers:
                total.update(name.encode("utf-8", "surrogateescape") + b"\0")
                if root is not None:
                    total.update(_size(root / name).to_bytes(8, "little"))
            total.update(repr(sample_images(dataset)).encode())
        return total.hexdigest()


def find_images(
    trained: Config,
    channels: int,
    data: str | Path,
    *,
    batch_size: int | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Images:
    """The images at ``data``, whole: splits that a data set defines are all included, and none is drawn.

    Args:
        trained: configuration of the run that will read them.
        channels: channels that they are converted to.
        data: name of a data set (``cifar10``), a folder of images, a Parquet file or a folder of them, a tar shard, a
            folder or pattern of them, or ``user/name`` on the Hugging Face hub.
        batch_size: images per forward pass; at least 64 by default.
        overrides: ``["data.key=value", ...]`` or a mapping, for keys that find and read images.

    Raises:
        UserError: nothing is there, or a key has no effect here.
        DataError: the images cannot be listed or read.
    """
    pairs = dict(overrides) if isinstance(overrides, Mapping) else dict(parse_override(text) for text in overrides)
    for key in pairs:
        if key not in _CHANGEABLE:
            close = difflib.get_close_matches(key, _CHANGEABLE, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(_CHANGEABLE)}"
            raise UserError(f"{key}: cannot be changed here; {hint}")
    kind, path = _kind(data, pairs.get("data.dataset"))
    fresh: dict[str, Any] = {f"data.{name}": None for name in ("subset", "classes_file", "labels_file")}
    # Speeds and the memory of workers follow the run; what its images are called or how they are labelled does not.
    fresh |= {"data.exclude": [], "data.bad_images": "skip", "data.dataset": kind, "data.channels": channels}
    fresh["data.data_path"] = path
    fresh["data.batch_size"] = max(trained.data.batch_size, _SMALLEST_BATCH) if batch_size is None else batch_size
    config = load_config(trained.model_dump(mode="json"), fresh | pairs)
    return Images(config, build_whole(config.data))


def _kind(data: str | Path, given: str | None) -> tuple[str, str | None]:
    """Value of ``data.dataset`` and ``data.data_path`` for what a user typed."""
    text = str(data)
    if given in OWN:
        return given, text
    path = Path(data)
    if text in NAMED and not path.is_dir():
        return text, None
    if given is not None:
        return given, text
    if path.is_dir():
        return _kind_of_folder(path), text
    if path.is_file():
        if path.suffix == ".parquet":
            return "parquet", text
        if path.suffix in (".tar", ".json", ".txt"):
            return "webdataset", text
        if is_picture(path.name):
            raise DataError(f"{text}: a single image; give the folder it is in")
        raise DataError(f"{text}: not a set of images; give a folder, a Parquet file (.parquet) or a tar shard (.tar)")
    if "{" in text or text.endswith(".tar") or text.startswith(("http://", "https://")):
        return "webdataset", text
    close = difflib.get_close_matches(text, NAMED, n=1, cutoff=0.75)
    if close:
        raise DataError(f"{text}: no such folder, file or data set; did you mean {close[0]}?")
    if _HUB_NAME.fullmatch(text) and not path.parent.is_dir():
        return "parquet", text
    raise DataError(
        f"{text}: no such folder, file or data set; give a folder of images, Parquet, tar shards, or one of {', '.join(NAMED)}"
    )


def _kind_of_folder(folder: Path) -> str:
    """What a folder holds, by the suffixes of its files; images win over the others."""
    try:
        names = [entry.name.lower() for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from None
    if any(is_picture(name) for name in names):
        return "folder"
    if any(name.endswith(".tar") for name in names):
        return "webdataset"
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    below = next(
        (path for path in folder.rglob("*") if path.suffix.lower() in (".parquet", ".tar") or is_picture(path.name)),
        None,
    )
    if below is None or is_picture(below.name):
        return "folder"
    return "parquet" if below.suffix.lower() == ".parquet" else "webdataset"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text(name: str) -> str:
    """A file name as valid text: bytes that are not UTF-8 as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
