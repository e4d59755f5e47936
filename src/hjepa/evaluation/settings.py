"""Arguments of an evaluation, checked before anything expensive starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hjepa.config import Config, load_config, parse_override
from hjepa.config.protocols import SECTIONS
from hjepa.data.build import list_images
from hjepa.data.dataset import EncodedPixels
from hjepa.data.image_sample import OWN_SOURCES, ImageSample, occurs_in, sample_images
from hjepa.errors import DataError, UserError
from hjepa.evaluation.on_request import KINDS, WITHOUT_MODEL, kind_of, parts_of

if TYPE_CHECKING:
    from hjepa.config import DataConfig
    from hjepa.data import Splits
    from hjepa.runs.load import TrainedRun

READ_SPLITS = ("validation", "test")
CONTROLS = ("untrained", "pixels", "pca")
MAIN_K = 20
DEFAULT_KS = (1, 5, 10, 20)
# Training batches may be small; without gradients, larger ones fit.
_SMALLEST_BATCH = 64
# Keys that select and load images. All others describe the trained model, or affect training only.
_CHANGEABLE = (
    "data.dataset",
    "data.data_path",
    "data.download",
    "data.batch_size",
    "data.num_workers",
    "data.pin_memory",
    "data.storage",
    "data.cache_dir",
    "data.cache_gib",
    "data.subset",
    "data.classes_file",
    "data.labels_file",
    "data.exclude",
    "data.bad_images",
    "data.test_fraction",
    "data.validation_fraction",
    "evaluation.train_images",
    "evaluation.test_images",
    *(f"evaluation.{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields),
)


@dataclass(frozen=True)
class Readings:
    """What is evaluated besides the levels of the trained model.

    Attributes:
        depths: encoder blocks after which features are read.
        controls: names from `CONTROLS`.
        on_request: names of further encoders, such as ``timm:resnet18``; see `hjepa.evaluation.on_request`.
    """

    depths: tuple[int, ...] = ()
    controls: tuple[str, ...] = CONTROLS
    on_request: tuple[str, ...] = ()


def check_k(k_values: Sequence[int] | None, references: int) -> tuple[tuple[int, ...], int]:
    """Numbers of neighbours, ascending, and the one that gives the main k-NN result.

    The main one is 20 if it is among them, otherwise the largest. The default is 1, 5, 10 and 20, as far as there are
    references.

    Raises:
        UserError: a number below 1, or above the number of references.
    """
    if k_values is None:
        values = tuple(k for k in DEFAULT_KS if k <= references)
    else:
        values = tuple(sorted(set(k_values)))
    if not values:
        raise UserError("k_values: no number of neighbours given; for example 1,5,10,20")
    if values[0] < 1:
        raise UserError(f"k_values: invalid number of neighbours {values[0]}; use 1 or more")
    if values[-1] > references:
        raise UserError(f"k_values: {values[-1]} exceeds the number of training images; use at most {references}")
    return values, MAIN_K if MAIN_K in values else values[-1]


def check_levels(levels: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Levels to report separately, ascending; all when not given.

    Raises:
        UserError: a level that the model lacks.
    """
    if levels is None:
        return tuple(range(count))
    for level in levels:
        if not 0 <= level < count:
            raise UserError(
                f"hierarchy_levels: {level} is out of range for a model with {count} level(s); use 0"
                + (f" to {count - 1}" if count > 1 else "")
            )
    return tuple(sorted(set(levels)))


def check_depths(depths: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Depths to read, ascending; none when not given.

    Raises:
        UserError: a depth that the encoder lacks.
    """
    for depth in depths or ():
        if not 1 <= depth <= count:
            raise UserError(f"depths: {depth} is out of range for an encoder with {count} blocks; use 1 to {count}")
    return tuple(sorted(set(depths or ())))


def check_controls(controls: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Controls in the order of `CONTROLS`, and those on request, such as ``timm:resnet18``, in the order given.

    Raises:
        UserError: an unknown name, or a control on request without a model.
    """
    requested = []
    for name in controls:
        if name in CONTROLS:
            continue
        if kind_of(name) not in KINDS:
            more = ", ".join(kind if kind in WITHOUT_MODEL else f"{kind}:NAME" for kind in KINDS)
            raise UserError(f"controls: unknown value {name!r}; use {', '.join(CONTROLS)}, {more}")
        if kind_of(name) in WITHOUT_MODEL:
            if name != kind_of(name):
                raise UserError(f"controls: unknown value {name!r}; {kind_of(name)} takes no model, leave out the rest")
        elif not parts_of(name)[0]:
            raise UserError(f"controls: {name!r} names no model; for example {kind_of(name)}:resnet18")
        requested.append(name)
    return tuple(name for name in CONTROLS if name in controls), tuple(dict.fromkeys(requested))


def evaluation_config(
    trained: Config,
    channels: int,
    *,
    dataset: str | None = None,
    data_path: str | Path | None = None,
    batch_size: int | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Config:
    """The run's configuration, with changed keys for the images to evaluate on.

    With another ``dataset``, the keys that describe the run's own images are reset (path, subset, class and label
    files). `data.batch_size` is raised to 64 unless it is set. Images are always converted to the channels that the
    model was trained on.

    Raises:
        UserError: a value out of bounds, or an override of a key that has no effect here.
    """
    if isinstance(overrides, Mapping):
        pairs = dict(overrides)
    else:
        pairs = dict(parse_override(text) for text in overrides)
    for key in pairs:
        if key not in _CHANGEABLE:
            close = difflib.get_close_matches(key, _CHANGEABLE, n=1, cutoff=0.8)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(_CHANGEABLE)}"
            raise UserError(f"{key}: cannot be changed in an evaluation; {hint}")
    if dataset is not None:
        pairs["data.dataset"] = dataset
    if data_path is not None:
        pairs["data.data_path"] = str(data_path)
    if batch_size is not None:
        pairs["data.batch_size"] = batch_size
    pairs.setdefault("data.batch_size", max(trained.data.batch_size, _SMALLEST_BATCH))
    if pairs.get("data.dataset", trained.data.dataset) != trained.data.dataset:
        reset = ("data_path", "subset", "classes_file", "labels_file")
        pairs = {f"data.{name}": None for name in reset} | {"data.exclude": []} | pairs
    return load_config(trained.model_dump(mode="json"), pairs | {"data.channels": channels})


def is_own_data(run: TrainedRun, config: Config) -> bool | None:
    """Whether the images are those that the run was trained on, also if they are copies in another place.

    Named data sets are compared by name. The user's own images are the run's if they are at the same path, or if an
    image of the sample that the run recorded is among them. For a run that recorded none, the sample is drawn from the
    images at its path.

    Returns:
        None if it cannot be told: there is neither a sample nor an image at the run's path, or shards would have to be
        downloaded to compare them.

    Raises:
        DataError: the images cannot be listed.
    """
    before, now = run.config.data, config.data
    if before.dataset != now.dataset:
        return False
    if now.dataset not in OWN_SOURCES or _resolved(before.data_path) == _resolved(now.data_path):
        return True
    sample = run.sample or _sample_at(before, run.channels)
    return None if sample is None else occurs_in(sample, list_images(now, "train"), run.channels)


def _sample_at(data: DataConfig, channels: int) -> ImageSample | None:
    """A sample of the images where the run found them; None if they are gone or would have to be downloaded."""
    if data.data_path is None or not data.data_path.exists():
        return None
    try:
        # Names and pixels do not depend on the labels, whose file may be gone.
        listing = list_images(data.model_copy(update={"labels_file": None}), "train")
    except DataError:
        return None
    if isinstance(listing.pixels, EncodedPixels):
        listing = replace(listing, pixels=listing.pixels.with_channels(channels))
    return sample_images(listing) or None


def check_split(split: str) -> None:
    """Check the name of the split.

    Raises:
        UserError: neither validation nor test.
    """
    if split not in READ_SPLITS:
        raise UserError(f"split: unknown value {split!r}; use {' or '.join(READ_SPLITS)}")


def check_own_split(trained: Config, config: Config, splits: Splits, *, own: bool | None) -> None:
    """Reject keys that would split the run's own data differently than in training.

    With such keys, images that the run was pretrained on could become test images, or other images than in training
    would be validation images. A validation fraction of 0 is allowed: no image moves to another split, and the probe
    may use every training label.

    Args:
        trained: configuration of the run.
        config: configuration of the evaluation.
        splits: the images of the evaluation.
        own: result of `is_own_data`. If None, only keys that may turn training images into test images are rejected.

    Raises:
        UserError: the message names the key and the run's value.
    """
    if own is False:
        return
    before, now = trained.data, config.data
    unless = " (it cannot be checked whether these are the run's images)" if own is None else ""
    changed = now.test_fraction != before.test_fraction
    if changed and (own or splits.train.division.drawn):
        raise UserError(
            f"data.test_fraction: {now.test_fraction:g} differs from the run's {before.test_fraction:g}, so images that it "
            f"was trained on could become test images{unless}; leave the key out"
        )
    if now.exclude != before.exclude and (own or splits.train.division.drawn):
        raise UserError(
            "data.exclude: changes which images are held out, so it must be as in training for the run's own data set"
            f"{unless}; leave the key out"
        )
    labels = _compare_files(before.labels_file, now.labels_file)
    if labels != "same" and splits.train.division.drawn:
        why = (
            f"the run's file {before.labels_file} is gone, so it cannot be checked that {now.labels_file} has the same "
            "labels; test images are drawn by class"
            if labels == "unknown"
            else "test images are drawn by class, so with other labels images that the run was trained on could become "
            "test images"
        )
        raise UserError(f"data.labels_file: {why}{unless}; put the test images into a folder `test` next to `train`")
    if own:
        _check_own_selection(before, now)


def _check_own_selection(before: DataConfig, now: DataConfig) -> None:
    """Reject keys that change which of the run's own images are training, validation and test images."""
    if now.validation_fraction not in (before.validation_fraction, 0):
        raise UserError(
            f"data.validation_fraction: {now.validation_fraction} differs from the run's {before.validation_fraction}, so "
            "other images would be withheld; leave the key out, or set it to 0 to fit on every training label"
        )
    if now.subset != before.subset:
        raise UserError(
            f"data.subset: {_shown(now.subset)} differs from the run's {_shown(before.subset)}, so other images would be "
            "validation images; leave the key out, and set evaluation.train_images to fit on fewer"
        )
    if (classes := _compare_files(before.classes_file, now.classes_file)) != "same":
        gone = (
            f"the run's file {before.classes_file} is gone, so it cannot be checked that {now.classes_file} is the same"
        )
        other = (
            f"{_shown(now.classes_file)} differs from the run's {_shown(before.classes_file)}, so other images would be "
            "validation images"
        )
        raise UserError(f"data.classes_file: {gone if classes == 'unknown' else other}; leave the key out")


def _compare_files(before: Path | None, now: Path | None) -> Literal["same", "other", "unknown"]:
    """Compare by content, as the run's file may have been moved."""
    if before is None or now is None or not now.is_file():
        return "same" if before == now else "other"
    if _resolved(before) == _resolved(now):
        return "same"
    if not before.is_file():
        return "unknown"
    return "same" if before.read_bytes() == now.read_bytes() else "other"


def _shown(value: object) -> object:
    return "null" if value is None else value


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()
