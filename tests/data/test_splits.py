"""Train, validation and test: disjoint, the same in every process, and the data set's own splits preferred."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import hjepa
from hjepa.config import DataConfig, load_config
from hjepa.data import Splits, build_dataset, build_splits
from hjepa.data.listing import MOST_VALIDATION, withheld
from hjepa.errors import DataError, UserError


def data(**keys: Any) -> DataConfig:
    return load_config({"data": {"dataset": "digits", **keys}}).data


def pictures(root: Path, counts: dict[str, int]) -> Path:
    generator = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            array = generator.integers(0, 255, (9, 8, 3), dtype=np.uint8)
            Image.fromarray(array).save(root / folder / f"{number:03d}.png")
    return root


def shares(labels: torch.Tensor) -> torch.Tensor:
    return torch.bincount(labels) / len(labels)


def test_splits_equal_those_of_build_dataset() -> None:
    splits = hjepa.build_splits(data(), seed=4)
    assert isinstance(splits, hjepa.Splits)
    names = {split: set(splits.of(split).identifiers) for split in ("train", "validation", "test")}
    assert not names["train"] & names["test"]
    assert names["validation"] < names["train"]
    fit = {splits.train.identifiers[row] for row in splits.fit_rows.tolist()}
    assert fit == names["train"] - names["validation"]
    assert splits.of("validation").split == "validation"


def test_validation_takes_the_same_share_of_every_class() -> None:
    splits = build_splits(data(validation_fraction=0.3), seed=1)
    assert splits.validation is not None
    assert splits.validation.labels is not None
    assert splits.train.labels is not None
    assert len(splits.validation) == round(0.3 * len(splits.train))
    assert torch.allclose(shares(splits.validation.labels), shares(splits.train.labels), atol=0.004)


@pytest.mark.parametrize("read_train_first", [False, True])
def test_splits_depend_on_the_seed_and_not_on_the_order_of_access(read_train_first: bool) -> None:
    first, second, other = (build_splits(data(subset=400), seed=seed) for seed in (5, 5, 6))
    if read_train_first:
        assert len(first.train) == 400
    assert first.validation is not None
    assert second.validation is not None
    assert other.validation is not None
    assert list(first.validation.identifiers) == list(second.validation.identifiers)
    assert torch.equal(first.fit_rows, second.fit_rows)
    assert list(first.validation.identifiers) != list(other.validation.identifiers)
    alone = build_dataset(data(subset=400), "validation", seed=5)
    assert list(alone.identifiers) == list(first.validation.identifiers)
    assert set(alone.identifiers) < set(first.train.identifiers)


def test_the_training_split_does_not_depend_on_withheld_labels() -> None:
    every = [build_dataset(data(validation_fraction=share), "train", seed=2) for share in ("auto", 0, 0.5)]
    assert len({tuple(dataset.identifiers) for dataset in every}) == 1


def test_auto_is_a_tenth_and_never_more_than_five_thousand() -> None:
    for count, wanted in ((400, 40), (49_999, 4_999), (200_000, MOST_VALIDATION), (3, 1), (2, 1)):
        mask = withheld(None, count, "auto", 0)
        assert mask is not None
        assert int(mask.sum()) == wanted
    assert withheld(None, 1, "auto", 0) is None
    assert withheld(None, 100, 0, 0) is None


def test_the_last_image_of_a_class_and_unlabelled_images_are_not_drawn() -> None:
    labels = torch.tensor([0] * 40 + [1] * 2 + [2] + [-1] * 200)
    for seed in range(20):
        mask = withheld(labels, len(labels), 0.5, seed)
        assert mask is not None
        assert int(mask.sum()) <= 22
        assert not mask[labels == -1].any()
        assert all((~mask[labels == label]).any() for label in (0, 1, 2))


def test_unlabelled_images_are_drawn_at_random(tmp_path: Path) -> None:
    root = pictures(tmp_path / "flat", {".": 60})
    splits = build_splits(data(dataset="folder", data_path=root), seed=0)
    assert splits.validation is not None
    assert len(splits.validation) == 4  # a tenth of the 48 that are not held out for testing
    assert splits.validation.labels is None


def test_fraction_zero_withholds_nothing_and_requesting_validation_is_an_error() -> None:
    splits = build_splits(data(validation_fraction=0))
    assert splits.validation is None
    assert torch.equal(splits.fit_rows, torch.arange(len(splits.train)))
    with pytest.raises(
        UserError, match=r"no validation images to evaluate, since data\.validation_fraction=0 withholds none; set"
    ) as error:
        splits.of("validation")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no images for the validation split"):
        build_dataset(data(validation_fraction=0), "validation")


@pytest.mark.parametrize("read_train_first", [False, True])
def test_too_few_images_to_withhold_are_an_error_only_if_validation_is_requested(
    tmp_path: Path, read_train_first: bool
) -> None:
    splits = build_splits(data(dataset="folder", data_path=pictures(tmp_path / "set", {".": 2})))
    if read_train_first:
        assert len(splits.train) == 1
    assert splits.validation is None
    with pytest.raises(UserError, match="no validation images to evaluate, since there are too few training images"):
        splits.of("validation")


def test_own_validation_images_are_used_and_not_in_train(tmp_path: Path) -> None:
    root = pictures(
        tmp_path / "set",
        {f"{part}/{label}": n for part, n in (("train", 20), ("val", 6), ("test", 4)) for label in "ab"},
    )
    splits = build_splits(data(dataset="folder", data_path=root))
    assert splits.validation is not None
    assert {name.split("/")[0] for name in splits.validation.identifiers} == {"val"}
    assert {name.split("/")[0] for name in splits.test.identifiers} == {"test"}
    assert (len(splits.train), len(splits.validation), len(splits.fit_rows)) == (40, 12, 40)
    assert splits.validation.class_names == splits.train.class_names == ("a", "b")
    assert list(build_splits(data(dataset="folder", data_path=root)).of("validation").identifiers) == list(
        splits.validation.identifiers
    )


def test_a_validation_folder_is_the_test_split_if_there_is_no_other(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", {"train/a": 20, "train/b": 20, "val/a": 4, "val/b": 4})
    splits = build_splits(data(dataset="folder", data_path=root))
    assert splits.validation is not None
    assert {name.split("/")[0] for name in splits.test.identifiers} == {"val"}
    assert {name.split("/")[0] for name in splits.validation.identifiers} == {"train"}


@pytest.mark.parametrize(
    ("folders", "test", "validation"),
    [
        (
            {"training/a": 20, "training/b": 20, "testing/a": 3, "testing/b": 3, "dev/a": 4, "dev/b": 4},
            "testing",
            "dev",
        ),
        ({"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 3, "valid": 4, "dev/a": 4, "dev/b": 4}, "test", "dev"),
        # Without labels nothing can be chosen by them, and without labels for testing they are needed there.
        ({"train/a": 20, "train/b": 20, "test/a": 3, "test/b": 3, "val": 4}, "test", "train"),
        ({"train/a": 20, "train/b": 20, "test": 3, "val/a": 4, "val/b": 4}, "val", "train"),
        ({"train/a": 20, "train/b": 20, "test/a": 3, "testing/b": 3}, "test", "train"),
        ({"train": 20, "test": 3, "val": 4}, "test", "val"),
    ],
)
def test_a_validation_split_needs_labels_if_train_has_them(
    tmp_path: Path, folders: dict[str, int], test: str, validation: str
) -> None:
    splits = build_splits(data(dataset="folder", data_path=pictures(tmp_path / "set", folders)))
    assert splits.validation is not None
    assert {name.split("/")[0] for name in splits.test.identifiers} == {test}
    assert {name.split("/")[0] for name in splits.validation.identifiers} == {validation}
    assert (splits.validation.labels is None) == (splits.train.labels is None)
    assert splits.validation.class_names == splits.train.class_names == splits.test.class_names


def test_a_damaged_file_does_not_change_the_division_of_the_others(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", {"a": 40, "b": 40})
    config = data(dataset="folder", data_path=root)
    before = set(build_splits(config, seed=3).of("validation").identifiers)
    damaged = next(iter(set(build_splits(config, seed=3).train.identifiers) - before))
    (root / damaged).write_bytes(b"not an image")
    for storage in ("auto", "workers"):
        after = build_splits(data(dataset="folder", data_path=root, storage=storage), seed=3)
        assert len(after.train) >= 63
        assert set(after.of("validation").identifiers) == before


def test_parquet_files_can_define_a_validation_split(tmp_path: Path) -> None:

    def png(value: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    for part, count in (("train", 30), ("validation", 8), ("test", 5)):
        table = pa.table({"image": [png(i) for i in range(count)], "label": [i % 2 for i in range(count)]})
        pq.write_table(table, tmp_path / f"{part}.parquet")
    splits = Splits(data(dataset="parquet", data_path=tmp_path))
    assert [len(splits.of(split)) for split in ("train", "validation", "test")] == [30, 8, 5]
    assert splits.train.division.own_validation


def test_shards_can_define_a_validation_split(tmp_path: Path) -> None:

    for part, count in (("train", 12), ("val", 4), ("test", 3)):
        with tarfile.open(tmp_path / f"{part}-000.tar", "w") as archive:
            for number in range(count):
                buffer = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(buffer, "PNG")
                for name, content in (
                    (f"{number}.png", buffer.getvalue()),
                    (f"{number}.cls", str(number % 2).encode()),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    splits = Splits(data(dataset="webdataset", data_path=tmp_path, cache_dir=tmp_path / "cache"))
    assert [len(splits.of(split)) for split in ("train", "validation", "test")] == [12, 4, 3]
