"""Parquet files in the Hugging Face layout."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.data.image_files import encode, noise

from hjepa.config import DataConfig
from hjepa.data import ImageDataset, build_dataset, check_dataset
from hjepa.errors import UserError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["ant", "bee", "cat"]


def write(
    file: Path,
    count: int,
    labels: list[Any] | None,
    *,
    first: int = 0,
    names: list[str] | None = None,
    column: str = "img",
) -> None:
    images = [{"bytes": encode(noise(first + i)), "path": None} for i in range(count)]
    columns = {"id": pa.array(range(count)), column: pa.array(images, STRUCT)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {column: {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, row_group_size=4)


def parquet(path: Path | str, split: str = "train", **keys: object) -> ImageDataset:
    return build_dataset(DataConfig(dataset="parquet", data_path=path, **keys), split)


def fails(match: str, path: Path | str, **keys: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        parquet(path, **keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("storage", ["auto", "workers"])
def test_round_trip_with_splits_and_names(tmp_path: Path, storage: str) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", 10, [i % 3 for i in range(10)], names=NAMES)
    write(tmp_path / "train-00001-of-00002.parquet", 5, [2] * 5, first=10, names=NAMES)
    write(tmp_path / "test.parquet", 6, [1] * 6, first=20, names=NAMES)
    train, test = parquet(tmp_path, storage=storage), parquet(tmp_path, "test", storage=storage)
    assert (len(train), len(test)) == (15, 6)
    assert train.class_names == test.class_names == tuple(NAMES)
    assert train.labels.tolist() == [i % 3 for i in range(10)] + [2] * 5
    assert train.identifiers[11] == "train-00001-of-00002.parquet/1"
    for index in range(15):
        assert torch.equal(train.read(index), torch.from_numpy(noise(index).transpose(2, 0, 1).copy()))
    assert (train.images is None) == (storage == "workers")


def test_a_single_file_is_split_by_the_seed(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", 20, [i % 2 for i in range(20)], column="picture")
    train, test = parquet(tmp_path / "all.parquet"), parquet(tmp_path / "all.parquet", "test")
    assert (len(train), len(test)) == (16, 4)
    assert set(train.identifiers).isdisjoint(test.identifiers)
    assert train.class_names == ("0", "1")
    assert parquet(tmp_path, "test").identifiers == test.identifiers


def test_text_labels_and_missing_label_column(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", 4, ["b", "c", None, "b"])
    write(tmp_path / "validation.parquet", 2, ["a", "c"])
    train, test = parquet(tmp_path), parquet(tmp_path, "test")
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert train.labels.tolist() == [1, 2, -1, 1]
    write(tmp_path / "train.parquet", 4, None)
    assert parquet(tmp_path / "train.parquet").labels is None


def test_bad_rows_are_reported_by_name(tmp_path: Path) -> None:
    images = [{"bytes": encode(noise(i)), "path": None} for i in range(4)]
    images[1] = {"bytes": b"text", "path": None}
    images[2] = {"bytes": None, "path": "beside.png"}
    images[3] = {"bytes": None, "path": "nowhere.png"}
    (tmp_path / "beside.png").write_bytes(encode(noise(9)))
    pq.write_table(pa.table({"image": pa.array(images, STRUCT)}), tmp_path / "train.parquet")
    pq.write_table(pa.table({"image": pa.array(images, STRUCT)}), tmp_path / "test.parquet")
    dataset = parquet(tmp_path)
    assert {b.path: b.reason for b in dataset.bad_files} == {
        "train.parquet/1": "not an image",
        "train.parquet/3": "missing",
    }
    assert torch.equal(dataset.read(1), torch.from_numpy(noise(9).transpose(2, 0, 1).copy()))


def test_plain_binary_columns_and_worker_processes(tmp_path: Path) -> None:
    table = pa.table({"jpg": pa.array([encode(noise(i)) for i in range(6)], pa.large_binary())})
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = parquet(tmp_path / "a.parquet", storage="workers", test_fraction=0.01)
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 5000
    assert torch.equal(copy.read(0), dataset.read(0))


def test_mistakes(tmp_path: Path) -> None:
    fails("data.data_path: .*nowhere.parquet does not exist", tmp_path / "nowhere.parquet")
    fails("no .parquet files in", tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    fails("a.parquet: cannot be read as Parquet", tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1], "label": [0]}), tmp_path / "a.parquet")
    fails("no image column among x, label", tmp_path)
    write(tmp_path / "a.parquet", 3, [0, 1, 5], names=NAMES)
    fails("column 'label' has label 5, but the metadata names only 3 classes", tmp_path)
    write(tmp_path / "a.parquet", 3, [0.5, 1.0, 2.0])
    fails("column 'label' has type double", tmp_path)
    write(tmp_path / "a.parquet", 3, [0, 1, 2])
    write(tmp_path / "b.parquet", 3, None, column="other")
    fails("b.parquet: columns differ from a.parquet", tmp_path)
    for part in ("one", "two"):
        (tmp_path / "split" / part).mkdir(parents=True)
        write(tmp_path / "split" / part / "train.parquet", 3, None)
    fails("several folders have training files", tmp_path / "split")
    with pytest.raises(UserError, match=r"data.data_path: required for data.dataset=parquet"):
        build_dataset(DataConfig(dataset="parquet"))


def test_hub_names_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    fails(r"nobody/nothing does not exist; .*pip install 'hjepa\[hub\]'", "nobody/nothing")


def test_hub_names_that_are_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fails(
        "nobody/nothing does not exist and cannot be downloaded.*data.download=true", "nobody/nothing", download=False
    )


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/data-0.parquet", "test/data-0.parquet"),
        ("my-train.parquet", "my-test.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("training/a/0.parquet", "dev/b/0.parquet"),
        ("train.parquet", "eval.parquet"),
        ("rest.parquet", "test.parquet"),
    ],
)
def test_splits_are_found_by_file_and_folder_names(tmp_path: Path, train: str, test: str) -> None:
    for number, name in enumerate((train, test)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, 4 - number, [0, 1, 0, 1][: 4 - number], first=10 * number)
    here, there = parquet(tmp_path), parquet(tmp_path, "test")
    assert list(here.identifiers) == [f"{train}/{row}" for row in range(4)]
    assert list(there.identifiers) == [f"{test}/{row}" for row in range(3)]


def notes(path: Path, **keys: object) -> str:
    return "\n".join(check_dataset(DataConfig(dataset="parquet", data_path=path, **keys)).notes)


def test_a_split_with_labels_is_preferred_to_one_with_hidden_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", 4, [0, 1, 2, 1], names=NAMES)
    write(tmp_path / "test.parquet", 3, [-1] * 3, first=10, names=NAMES)
    write(tmp_path / "validation.parquet", 2, [2, 0], first=20, names=NAMES)
    assert parquet(tmp_path, "test").labels.tolist() == [2, 0]
    assert "1 file of the split test is not used; validation is the test split" in notes(tmp_path)
    # Validation images are drawn from train then.
    assert parquet(tmp_path, "validation").identifiers[0].startswith("train.parquet/")
    write(tmp_path / "test.parquet", 3, None, first=10)
    assert parquet(tmp_path, "test").labels.tolist() == [2, 0]
    (tmp_path / "validation.parquet").unlink()
    assert parquet(tmp_path, "test").labels is None


def test_files_beside_the_splits_are_left_out_with_a_note(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", 4, None)
    write(tmp_path / "test.parquet", 2, None, first=10)
    write(tmp_path / "notes.parquet", 2, None, first=20)
    assert len(parquet(tmp_path)) == 4
    assert "left out 1 file without a split: notes.parquet" in notes(tmp_path)
    assert "data.exclude: 1 file: notes.parquet" in notes(tmp_path, exclude=["notes*"])


@pytest.mark.parametrize("base", [7_000_000, 4_000_000_000, 2**62])
def test_ids_are_renumbered_to_classes_in_order_of_value(tmp_path: Path, base: int) -> None:
    write(tmp_path / "train.parquet", 4, [base + 5, base, base + 5, None])
    write(tmp_path / "test.parquet", 2, [base, base + 9], first=10)
    train, test = parquet(tmp_path), parquet(tmp_path, "test")
    assert train.class_names == test.class_names == (str(base), str(base + 5), str(base + 9))
    assert train.labels.tolist() == [1, 0, 1, -1]
    assert test.labels.tolist() == [0, 2]
    assert f"3 different values from {base} to {base + 9}; renumbering the classes 0 to 2" in notes(tmp_path)


def test_labels_stored_as_float_bool_or_negative(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 4, [1.0, float("nan"), 0.0, 1.0])  # whole numbers of pandas, one missing
    assert sorted(parquet(tmp_path, test_fraction=0.01).labels.tolist()) in ([-1, 0, 1], [-1, 1, 1], [0, 1, 1])
    write(tmp_path / "a.parquet", 4, [True, False, True, True])
    assert parquet(tmp_path).class_names == ("false", "true")
    write(tmp_path / "a.parquet", 4, [1, -1, 1, -1])
    assert parquet(tmp_path).class_names == ("1",)
    assert "2 rows with negative values" in notes(tmp_path)


def test_a_list_of_labels_is_rejected_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 4, [[0, 1], [1], [0], [2, 1]])
    fails("column 'label' has type list.*an image can have only one label", tmp_path)


def test_the_choice_among_label_columns_is_noted(tmp_path: Path) -> None:
    images = pa.array([{"bytes": encode(noise(i)), "path": None} for i in range(4)], STRUCT)
    table = pa.table({"image": images, "category": pa.array([3, 4, 5, 6]), "label": pa.array([0, 1, 0, 1])})
    pq.write_table(table, tmp_path / "a.parquet")
    assert parquet(tmp_path).class_names == ("0", "1")
    assert "reading labels from column label; ignoring columns category" in notes(tmp_path)
