"""``data``: which images, how they are stored, cropped and batched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hjepa.config.base import Section

DATASETS = (
    "shapes",
    "digits",
    "cifar10",
    "cifar100",
    "stl10",
    "imagenet100",
    "imagenet",
    "folder",
    "parquet",
    "webdataset",
)


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the first value {pair[0]:g} is above the second {pair[1]:g}")
    return pair


Share = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ordered)]


class AugmentationConfig(Section):
    """Augmentation of training images."""

    random_crop: bool = True
    """Random resized crop; otherwise the largest centred crop with the aspect ratio of the model's input."""
    crop_scale: Range = (0.4, 1.0)
    """Share of the image's area that a random crop covers."""
    crop_ratio: PositiveRange = (0.75, 4 / 3)
    """Aspect ratio (width over height) of a random crop before it is resized."""
    horizontal_flip: bool = True
    """Mirror half of the images."""
    color_jitter: float = Field(default=0.0, ge=0, lt=1)
    """Strength s of brightness, contrast and saturation: each is multiplied by a factor in [1 - s, 1 + s]."""
    grayscale: float = Field(default=0.0, ge=0, le=1)
    """Probability of turning an image of three channels grey."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Probability of Gaussian blur, with a standard deviation uniform in [0.1, 2] pixels of the crop."""
    solarize: float = Field(default=0.0, ge=0, le=1)
    """Probability of inverting all values of 0.5 and above."""


class DataConfig(Section):
    """Data set, storage, splits and batches."""

    dataset: Literal[
        "shapes", "digits", "cifar10", "cifar100", "stl10", "imagenet100", "imagenet", "folder", "parquet", "webdataset"
    ] = "shapes"
    """Name of the data set; `folder`, `parquet` and `webdataset` are your own images at `data_path`."""
    data_path: Path | None = None
    """Where the data set is, or is downloaded to; `./data/<dataset>` when not given."""
    download: bool = True
    """Download missing data, where the licence allows it."""
    image_size: int | tuple[int, int] | None = None
    """Side, or [height, width], of the model's input; the size in the encoder's name when not given."""
    channels: int | None = Field(default=None, ge=1)
    """Number of channels that images are converted to; the data set's own when not given (3 for files of mixed
    modes)."""
    batch_size: int = Field(default=64, ge=1)
    """Images per process and forward pass."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that decode images, when these are not held in memory."""
    prefetch_factor: int = Field(default=4, ge=1)
    """Batches that each worker prepares in advance."""
    pin_memory: bool = False
    """Use page-locked memory for faster copies to a GPU; no effect on a CPU."""
    storage: Literal["auto", "device", "workers"] = "auto"
    """`device`: decode once, keep images in native type and resolution on the training device, and crop them there in
    batches. `workers`: decode again for every batch. `auto`: `device` up to 2 GiB of decoded images, otherwise
    `workers`."""
    jpeg_reduction: bool = False
    """With `workers`: decode JPEG files at a half, a quarter or an eighth of their size when the crop still has at least
    the resolution of the model's input. Faster for photographs much larger than that; pixels differ by a few grey
    levels."""
    subset: int | float | None = Field(default=None, gt=0)
    """Use only part of the training set: a number of images, or a fraction below 1; drawn with the seed, balanced over
    classes when there are labels."""
    classes_file: Path | None = None
    """Text file with one class name (folder name) per line: the classes to use, in the order of labels."""
    labels_file: Path | None = None
    """CSV file with the columns `file` and `label`, for folders without class sub-folders; or a text file with a file and
    its label on each line. Splits that it does not mention keep the classes of their folders."""
    exclude: list[str] = Field(default_factory=list)
    """Patterns of files and folders to leave out, for example `[thumbs, "*_mask.png", "train/draft/*"]`: a pattern with a
    slash is matched against paths below `data_path`, one without against every file and folder name. For `folder`,
    `imagenet`, `imagenet100` and the files of `parquet`."""
    bad_images: Literal["skip", "stop"] = "skip"
    """What to do with files that cannot be decoded: skip and count them, or stop."""
    cache_dir: Path | None = None
    """Folder for shard indexes and downloaded shards; `hjepa` in the user's cache folder when not given. Processes and
    runs may share it."""
    cache_gib: float = Field(default=50.0, gt=0)
    """Size limit of downloaded shards in GiB; the least recently used are deleted first."""
    shard_lanes: int = Field(default=16, ge=1)
    """Sequences of shards that are read in parallel, each by one process; with fewer lanes than processes, several
    processes read the same shards. Lanes determine the order of the images; the number of processes does not."""
    shard_window: int = Field(default=2, ge=1)
    """Shards of a lane whose images are shuffled together. More shuffle better, and take more disk space when shards are
    downloaded."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Fraction held out for testing, drawn with the seed, when the data set has no test split of its own."""
    validation_fraction: Literal["auto"] | Annotated[float, Field(ge=0, le=0.5)] = "auto"
    """Fraction of the training images used for validation: their labels are withheld from probes and k-NN, so that runs
    can be compared without reading test. Drawn with the seed, the same share of every class. Pretraining uses them like all
    others, without labels. `auto`: 5,000 images or a tenth, whichever is less. 0: none, the probe may use every training
    label. No effect when the data set has both validation and test images of its own."""
    mean: list[float] | None = None
    """Mean per channel in [0, 1] for normalisation; measured on the training images when not given."""
    std: list[float] | None = None
    """Standard deviation per channel, in the same units; measured on the training images when not given."""
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Augmentation of training images."""
