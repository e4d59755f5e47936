"""What is asked of an evaluation, checked before anything heavy starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa.config import Config, load_config, parse_override
from hjepa.errors import UserError

if TYPE_CHECKING:
    from hjepa.data import Splits

EVAL_TYPES = ("linear_probe", "knn")
READ_SPLITS = ("validation", "test")
CONTROLS = ("untrained", "pixels", "pca")
MAIN_K = 20
DEFAULT_KS = (1, 5, 10, 20)
# Training batches may be tiny; without gradients there is room for more.
_SMALLEST_BATCH = 64
# Keys that choose and read images. All others belong to the trained model, or steer training only.
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
)


@dataclass(frozen=True)
class Readings:
    """What is read beside the levels of the trained model.

    Attributes:
        depths: encoder blocks after which features are read.
        controls: of `CONTROLS`.
    """

    depths: tuple[int, ...] = ()
    controls: tuple[str, ...] = CONTROLS


def parse_eval_types(eval_type: str | Sequence[str]) -> tuple[str, ...]:
    """Names from ``"all"``, ``"linear_probe"``, ``"knn"``, with commas or as a sequence; ``-`` may stand for ``_``.

    Raises:
        UserError: an unknown name.
    """
    given = [eval_type] if isinstance(eval_type, str) else list(eval_type)
    names = [name.strip().replace("-", "_") for text in given for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*EVAL_TYPES, "all"):
            close = difflib.get_close_matches(name, (*EVAL_TYPES, "all"), n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(EVAL_TYPES)} or all"
            raise UserError(f"eval_type: {name!r} is not known; {hint}")
    if not names:
        raise UserError(f"eval_type: nothing given; use {', '.join(EVAL_TYPES)} or all")
    return EVAL_TYPES if "all" in names else tuple(name for name in EVAL_TYPES if name in names)


def check_k(k_values: Sequence[int] | None, references: int) -> tuple[tuple[int, ...], int]:
    """Numbers of neighbours, ascending, and the one that stands for k-NN in the results.

    That one is 20 where it is among them, otherwise the largest. Without a request they are 1, 5, 10 and 20, as far as
    there are references.

    Raises:
        UserError: not positive, or more than there are references.
    """
    if k_values is None:
        values = tuple(k for k in DEFAULT_KS if k <= references)
    else:
        values = tuple(sorted(set(k_values)))
    if not values:
        raise UserError("k_values: no number of neighbours given; for example 1,5,10,20")
    if values[0] < 1:
        raise UserError(f"k_values: {values[0]} is not a number of neighbours; use 1 or more")
    if values[-1] > references:
        raise UserError(f"k_values: {values[-1]} neighbours of {references} training images; use at most {references}")
    return values, MAIN_K if MAIN_K in values else values[-1]


def check_levels(levels: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Levels to report one by one, ascending; all when not given.

    Raises:
        UserError: a level that the model lacks.
    """
    if levels is None:
        return tuple(range(count))
    for level in levels:
        if not 0 <= level < count:
            raise UserError(
                f"hierarchy_levels: level {level} of a model with {count} level(s); use 0"
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
            raise UserError(f"depths: {depth} of an encoder with {count} blocks; use 1 to {count}")
    return tuple(sorted(set(depths or ())))


def check_controls(controls: Sequence[str]) -> tuple[str, ...]:
    """Controls in the order of `CONTROLS`.

    Raises:
        UserError: an unknown name.
    """
    for name in controls:
        if name not in CONTROLS:
            raise UserError(f"controls: {name!r} is not known; use {', '.join(CONTROLS)}")
    return tuple(name for name in CONTROLS if name in controls)


def evaluation_config(
    trained: Config,
    channels: int,
    *,
    dataset: str | None = None,
    data_path: str | Path | None = None,
    batch_size: int | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> Config:
    """The run's configuration with other images put in.

    With another ``dataset`` everything that described the run's own images is forgotten (path, subset, class and
    label files). `data.batch_size` is raised to 64 where nothing else is asked for. Images are always converted to the channels that the model was trained on.

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
            hint = f"did you mean {close[0]}?" if close else f"changeable are {', '.join(_CHANGEABLE)}"
            raise UserError(f"{key}: not a key that an evaluation reads, the rest belongs to the trained run; {hint}")
    if dataset is not None:
        pairs["data.dataset"] = dataset
    if data_path is not None:
        pairs["data.data_path"] = str(data_path)
    if batch_size is not None:
        pairs["data.batch_size"] = batch_size
    pairs.setdefault("data.batch_size", max(trained.data.batch_size, _SMALLEST_BATCH))
    if pairs.get("data.dataset", trained.data.dataset) != trained.data.dataset:
        forgotten = ("data_path", "subset", "classes_file", "labels_file")
        pairs = {f"data.{name}": None for name in forgotten} | {"data.exclude": []} | pairs
    config = load_config(trained.model_dump(mode="json"), pairs | {"data.channels": channels})
    if config.data.exclude != trained.data.exclude and not is_other_data(trained, config):
        raise UserError(
            "data.exclude: changes which images a seeded split holds out, so the run's own data set is evaluated as it was "
            "trained on; leave it out"
        )
    return config


def is_other_data(trained: Config, config: Config) -> bool:
    """Whether the images are another data set than the one the run was trained on.

    For named sets the name decides (a moved copy is the same set), for one's own images the path does too.
    """
    if trained.data.dataset != config.data.dataset:
        return True
    own = config.data.dataset in ("folder", "parquet", "webdataset")
    return own and _resolved(trained.data.data_path) != _resolved(config.data.data_path)


def check_split(split: str) -> None:
    """Refuse what is no split to read.

    Raises:
        UserError: it names both.
    """
    if split not in READ_SPLITS:
        raise UserError(f"split: {split!r} is not known; use {' or '.join(READ_SPLITS)}")


def check_own_split(trained: Config, config: Config, splits: Splits) -> None:
    """Refuse keys that would divide the run's own data in another way than for training.

    Held-out images of another share, or of other labels, are images that the run was pretrained on. No validation images
    at all (0) is allowed: no image changes its place, and every training label serves the probe.

    Raises:
        UserError: it names the key and what the run has.
    """
    before, now = trained.data, config.data
    if now.test_fraction != before.test_fraction:
        raise UserError(
            f"data.test_fraction: {now.test_fraction:g} would hold out other images than the {before.test_fraction:g} of "
            "the run, some of which it was trained on; leave the key out"
        )
    if now.validation_fraction not in (before.validation_fraction, 0):
        raise UserError(
            f"data.validation_fraction: {now.validation_fraction} would withhold other images than the "
            f"{before.validation_fraction} of the run; leave the key out, or set it to 0 to fit on every training label"
        )
    if _other_labels(before.labels_file, now.labels_file) and splits.train.division.drawn:
        raise UserError(
            "data.labels_file: test images are drawn evenly from the classes, so other labels would hold out images that "
            "the run was trained on; put the test images into a folder `test` beside `train`"
        )


def _other_labels(before: Path | None, now: Path | None) -> bool:
    if before is None or now is None:
        return before is not now
    # A table that has moved is the same table.
    return before.is_file() and now.is_file() and before.read_bytes() != now.read_bytes()


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()
