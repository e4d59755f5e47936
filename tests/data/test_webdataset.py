"""Data sets of shards: paths and lists, labels, splits, batches, damage, writing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import Run
from tests.data.image_files import encode, noise
from tests.data.shard_files import write_shards, write_tar

from hjepa.config import DataConfig
from hjepa.data import Batch, ImageDataset, TrainLoader, build_dataset, build_splits, check_dataset
from hjepa.data.images.decode import decode
from hjepa.data.shards.catalogue import expand
from hjepa.data.shards.write import write_shards as write_data
from hjepa.errors import DataError, UserError

CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., DataConfig]:
    """A ``data`` section for shards, with an index folder of the test's own."""

    def make(path: Path | str, **keys: Any) -> DataConfig:
        base = {"dataset": "webdataset", "data_path": path, "cache_dir": tmp_path / "cache", "batch_size": 8}
        return DataConfig(**(base | keys))

    return make


Make = Callable[..., DataConfig]


def batches(
    dataset: ImageDataset,
    data: DataConfig,
    start: int,
    stop: int,
    *,
    accumulation: int = 1,
    rank: int = 0,
    world: int = 1,
) -> list[Batch]:
    loader = TrainLoader(
        dataset,
        data,
        (8, 8),
        mean=[0.4] * 3,
        std=[0.5] * 3,
        seed=7,
        accumulation_steps=accumulation,
        rank=rank,
        world_size=world,
        device=CPU,
    )
    return list(loader.batches(start, stop))


def equal(a: list[Batch], b: list[Batch], atol: float = 0.0) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.indices, y.indices) and torch.allclose(x.images, y.images, rtol=0, atol=atol)
        for x, y in zip(a, b, strict=True)
    )


def test_a_folder_is_read_and_divided_by_the_seed(tmp_path: Path, settings: Make) -> None:
    write_shards(tmp_path / "set", [10, 7, 13])
    train, test = (build_dataset(settings(tmp_path / "set"), split, seed=1) for split in ("train", "test"))
    assert (len(train), len(test), train.channels) == (24, 6, 3)
    assert set(train.identifiers).isdisjoint(test.identifiers)
    assert train.class_names == ("0", "1", "2")
    for dataset in (train, test):
        for row, name in enumerate(dataset.identifiers):
            number = int(name.rpartition("!")[2])
            assert torch.equal(dataset.read(row), torch.from_numpy(noise(number, 12, 14).copy()).permute(2, 0, 1))
            assert dataset.labels[row] == number % 3
    assert train.identifiers[0].startswith("shard-0000.tar!")
    assert train.description == "webdataset set"


@pytest.mark.parametrize("form", ["folders", "names", "pattern", "json", "text", "lone list"])
def test_splits_are_found_by_names(form: str, tmp_path: Path, settings: Make) -> None:
    root = tmp_path / "test"  # a folder above the set says nothing
    first, last = ("train/", "val/") if form == "folders" else ("imagenet-train-", "imagenet-validation-")
    names = [f"{first}0.tar", f"{first}1.tar", f"{last}0.tar"]
    for number, name in enumerate(names):
        members = [(f"{number}{i}.png", encode(noise(10 * number + i))) for i in range(3)]
        write_tar(root / name, members)
    path: Path | str = root
    if form == "pattern":
        path = root / "imagenet-{train-{0..1},validation-0}.tar"
        with pytest.raises(DataError, match="does not exist"):
            build_dataset(settings(path))
        path = root / "imagenet-{train,validation}-0.tar"
        names = names[::2]
    elif form == "json":
        path = root / "list.json"
        path.write_text(json.dumps({"shardlist": [{"url": name, "nsamples": 3} for name in names]}))
    elif form == "text":
        path = root / "list.txt"
        path.write_text("\n".join(names) + "\n")
    elif form == "lone list":
        path = root / "list.json"
        rows = [{"url": name, "split": "test" if name == names[0] else "train"} for name in names]
        path.write_text(json.dumps(rows))
        names = [names[1], names[2], names[0]]
    train, test = (build_dataset(settings(path), split) for split in ("train", "test"))
    assert [name.rpartition("!")[0].rpartition("/")[2] for name in test.identifiers] == [Path(names[-1]).name] * 3
    assert len(train) == 3 * (len(names) - 1)
    assert train.labels is None


def test_brace_patterns_are_expanded() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand("plain") == ["plain"]
    with pytest.raises(DataError, match=r"invalid range \{5..2\}"):
        expand("x-{5..2}.tar")
    with pytest.raises(DataError, match="correct its ranges"):
        expand("x-{0..99999}-{0..99999}.tar")


def test_mistakes_are_one_line_errors(tmp_path: Path, settings: Make) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("{}")
    (tmp_path / "rows.json").write_text('[{"nsamples": 3}]')
    (tmp_path / "labels.json").write_text('[{"url": "a.tar", "nsamples": 3, "labels": [1]}]')
    (tmp_path / "nothing.txt").write_text("\n")
    (tmp_path / "gone.txt").write_text("gone.tar\n")
    cases = [
        (tmp_path / "empty", r"no \.tar files in .*empty; give a folder of WebDataset shards"),
        (tmp_path / "none", "none does not exist; give a folder of .tar files, a pattern"),
        (tmp_path / "none.json", "none.json does not exist; give a list of shards"),
        (tmp_path / "list.json", 'list.json is not a list of shards; expected {"shardlist"'),
        (tmp_path / "rows.json", 'has an invalid entry {"nsamples": 3}; each needs a url'),
        (tmp_path / "labels.json", "each needs a url, nsamples .* labels a list of that length"),
        (tmp_path / "nothing.txt", "lists no shards"),
        (tmp_path / "gone.txt", "gone.tar: the shard does not exist"),
        ("s3://bucket/shard-{0..3}.tar", "s3: URLs are not supported; give an https:// URL"),
    ]
    for path, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            build_dataset(settings(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data\.data_path: required for data\.dataset=webdataset"):
        build_dataset(DataConfig(dataset="webdataset"))


def test_labels_of_both_splits_are_numbered_together(tmp_path: Path, settings: Make) -> None:
    for split, labels in (("train", ["fox", "cat", ""]), ("test", ["ant", "fox"])):
        members = []
        for index, label in enumerate(labels):
            members.append((f"{index}.png", encode(noise(index))))
            if label:
                members.append((f"{index}.json", json.dumps({"label": label}).encode()))
        write_tar(tmp_path / "set" / split / "0.tar", members)
    train, test = (build_dataset(settings(tmp_path / "set"), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "cat", "fox")
    assert train.labels.tolist() == [2, 1, -1]
    assert test.labels.tolist() == [0, 2]
    (tmp_path / "classes.txt").write_text("fox\nant\n")
    chosen = build_dataset(settings(tmp_path / "set", classes_file=tmp_path / "classes.txt"))
    assert (chosen.labels.tolist(), chosen.identifiers[0]) == ([0], "train/0.tar!0")


def test_class_names_of_a_list(tmp_path: Path, settings: Make) -> None:
    write_shards(tmp_path, [6])
    tree = {"shardlist": [{"url": "shard-0000.tar"}], "class_names": ["cat", "0", "fox"]}
    (tmp_path / "shards.json").write_text(json.dumps(tree))
    dataset = build_dataset(settings(tmp_path))
    assert dataset.class_names == ("cat", "0", "fox")
    assert dataset.labels.tolist() == [int(name[-5:]) % 3 for name in dataset.identifiers]
    (tmp_path / "shards.json").write_text(json.dumps(tree | {"class_names": ["cat", "dog"]}))
    with pytest.raises(DataError, match="label '2' is not among the 2 class_names"):
        build_dataset(settings(tmp_path))


def test_batches_do_not_depend_on_processes_workers_accumulation_or_first_step(tmp_path: Path, settings: Make) -> None:
    write_shards(tmp_path / "set", [11, 3, 20, 9, 14, 25])
    data = settings(tmp_path / "set", batch_size=16, storage="workers", test_fraction=0.02, shard_lanes=4)
    dataset = build_dataset(data)
    whole = batches(dataset, data, 0, 12)
    assert len({int(i) for b in whole[:4] for i in b.indices}) == 64
    workers = data.model_copy(update={"num_workers": 2, "prefetch_factor": 1})
    assert equal(batches(dataset, workers, 7, 12), whole[7:])
    split = data.model_copy(update={"batch_size": 4})
    ranks = [batches(dataset, split, 0, 6, accumulation=2, rank=rank, world=2) for rank in range(2)]
    for step in range(6):
        parts = [ranks[rank][2 * step + number] for number in range(2) for rank in range(2)]
        assert torch.equal(torch.cat([part.indices for part in parts]), whole[step].indices)
        assert torch.allclose(torch.cat([part.images for part in parts]), whole[step].images, rtol=0, atol=1e-5)
    memory = data.model_copy(update={"storage": "device"})
    assert equal(batches(build_dataset(memory), memory, 0, 12), whole, atol=1.05 / 255 / 0.5)
    other = settings(tmp_path / "set", batch_size=16, storage="workers", test_fraction=0.02, shard_lanes=1)
    assert not equal(batches(dataset, other, 0, 2), whole[:2])


def test_a_resumed_run_is_bit_equal(run: Run, tmp_path: Path) -> None:
    write_shards(tmp_path / "set", [30, 18, 25, 40])
    keys = {"data.dataset": "webdataset", "data.data_path": str(tmp_path / "set"), "data.subset": None}
    keys |= {"data.cache_dir": str(tmp_path / "cache"), "data.storage": "workers", "training.accumulation_steps": 2}
    whole = run(keys)
    run({**keys, "training.max_steps": 3, "data.num_workers": 1}, folder=tmp_path / "halves")
    resumed = run({**keys, "data.num_workers": 2}, folder=tmp_path / "halves", resume="auto")
    assert resumed.outcome.step == whole.outcome.step > 3
    assert torch.equal(resumed.weights, whole.weights)
    assert [r["loss"] for r in resumed.records] == [r["loss"] for r in whole.records]


def test_damaged_samples_are_skipped_and_counted_or_stop(
    tmp_path: Path, settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    files = write_shards(tmp_path / "set" / "train", [8, 8, 8])
    write_shards(tmp_path / "set" / "test", [4])
    members = [(f"{i}.png", encode(noise(i)) if i != 2 else b"no picture") for i in range(5)]
    write_tar(tmp_path / "set" / "train" / "shard-0003.tar", members)
    cut = files[1].read_bytes()
    files[1].write_bytes(cut[: len(cut) // 2])
    files[2].write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        dataset = build_dataset(settings(tmp_path / "set"))
    bad = dict(dataset.bad_files)
    assert bad["train/shard-0003.tar!2"] == "not an image"
    assert bad["train/shard-0002.tar"] == "empty file"
    assert "train/shard-0001.tar" in bad
    assert 8 + 4 < len(dataset) < 8 + 8 + 4
    assert "skipped train/shard-0002.tar: empty file" in caplog.text
    with pytest.raises(DataError, match=r"data\.bad_images=stop: \d files cannot be read: train/shard-0001\.tar"):
        build_dataset(settings(tmp_path / "set", bad_images="stop"))
    report = check_dataset(settings(tmp_path / "set"))
    assert (report.splits["train"].images, report.splits["test"].images) == (len(dataset), 4)
    assert {b.path for b in report.bad_files} == set(bad)
    for file in (tmp_path / "set").rglob("*.tar"):
        file.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"no images for the train split.*train/shard-0000\.tar: "):
        build_dataset(settings(tmp_path / "set"))


def test_a_shard_that_disappears_is_replaced_by_another(tmp_path: Path, settings: Make) -> None:
    files = write_shards(tmp_path / "set", [150, 10, 12])
    data = settings(tmp_path / "set", storage="workers", test_fraction=0.01)
    dataset = build_dataset(data)
    strict = build_dataset(data.model_copy(update={"bad_images": "stop"}))
    lost = [row for row, name in enumerate(dataset.identifiers) if name.startswith(files[0].name)]
    files[0].unlink()
    seen = torch.cat([batch.indices for batch in batches(dataset, data, 0, 4)])
    assert set(seen.tolist()).isdisjoint(lost)
    assert all(bad.reason == "the shard is missing" for bad in dataset.bad_files)
    assert {bad.path for bad in dataset.bad_files} <= {f"{files[0].name}!{row:05d}" for row in range(150)}
    with pytest.raises(
        DataError, match=r"bad_images=stop: 1 file cannot .* shard-0000\.tar!\d+ \(the shard is missing\)"
    ):
        batches(strict, data.model_copy(update={"bad_images": "stop"}), 0, 4)


def test_files_are_written_unchanged_and_read_back(class_folder: Path, tmp_path: Path, settings: Make) -> None:
    (class_folder / "ant" / "broken.png").write_bytes(b"")
    (class_folder / "bee" / "deep.PNG").write_bytes(encode(np.full((9, 9), 40_000, dtype=np.uint16)))
    source = DataConfig(dataset="folder", data_path=class_folder)
    written = write_data(source, tmp_path / "out", samples_per_shard=4, seed=5)
    assert written == {"train": (21, 6), "test": (4, 1)}
    for split in ("train", "test"):
        before = build_dataset(source.model_copy(update={"storage": "workers"}), split, seed=5)
        after = build_dataset(settings(tmp_path / "out", storage="workers"), split, seed=99)
        assert after.class_names == before.class_names == ("ant", "bee", "cat")
        files = {(before.pixels.load(row), int(before.labels[row])) for row in range(len(before))}
        assert {(after.pixels.load(row), int(after.labels[row])) for row in range(len(after))} == files
        assert after.labels.tolist() != before.labels.tolist()  # mixed, not sorted by class
    listed = json.loads((tmp_path / "out" / "shards.json").read_text())
    assert [row["nsamples"] for row in listed["shardlist"]] == [4, 4, 4, 4, 4, 1, 4]
    first = (tmp_path / "out" / "train" / "shard-000000.tar").read_bytes()
    write_data(source, tmp_path / "again", samples_per_shard=4, seed=5)
    assert (tmp_path / "again" / "train" / "shard-000000.tar").read_bytes() == first
    with pytest.raises(UserError, match="the folder is not empty; give an empty one"):
        write_data(source, tmp_path / "out")
    with pytest.raises(UserError, match="cannot be created"):
        write_data(source, class_folder / "ant" / "0.png")


def test_own_validation_images_are_checked_and_written(tmp_path: Path, settings: Make) -> None:
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        for index in range(count):
            path = tmp_path / "set" / part / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(noise(100 * count + index)))
    source = DataConfig(dataset="folder", data_path=tmp_path / "set")
    sizes = {"train": 5, "validation": 3, "test": 2}
    assert {name: split.images for name, split in check_dataset(source).splits.items()} == sizes
    written = write_data(source, tmp_path / "out")
    assert {name: images for name, (images, _) in written.items()} == sizes
    splits = build_splits(settings(tmp_path / "out"))
    assert splits.train.division.own_validation
    assert [len(splits.of(split)) for split in ("train", "validation", "test")] == [5, 3, 2]


@pytest.mark.parametrize("keys", [{"dataset": "digits"}, {"dataset": "shapes", "image_size": 8, "channels": 4}])
def test_images_in_memory_are_written_without_loss(keys: dict[str, Any], tmp_path: Path, settings: Make) -> None:
    if "channels" in keys:
        keys = {"dataset": "folder", "data_path": tmp_path / "arrays", "channels": 4}
        (tmp_path / "arrays").mkdir()
        for index in range(30):
            array = np.random.default_rng(index).integers(0, 256, (4, 6, 5), dtype=np.uint8)
            np.save(tmp_path / "arrays" / f"{index}.npy", array)
    source = DataConfig(**keys, subset=24)
    write_data(source, tmp_path / "out", samples_per_shard=10)
    before, after = build_dataset(source), build_dataset(settings(tmp_path / "out"))
    assert after.channels == before.channels
    pixels = {before.read(row).numpy().tobytes() for row in range(24)}
    assert {after.read(row).numpy().tobytes() for row in range(24)} == pixels
    assert len(after) == 24
    assert (after.labels is None) == (before.labels is None)


def test_the_command_writes_shards_and_prints_how_to_use_them(class_folder: Path, tmp_path: Path) -> None:
    from tests.data.test_data_command import run

    arguments = ["--dataset", "folder", "--data-path", class_folder, "--samples-per-shard", 8]
    said = run("shard", "--output", tmp_path / "out", *arguments)
    assert f"{tmp_path / 'out' / 'train'}: 19 images in 3 shards" in said
    assert f"data.dataset=webdataset data.data_path={tmp_path / 'out'}" in said
    check = run("check", "--dataset", "webdataset", "--data-path", tmp_path / "out", f"data.cache_dir={tmp_path / 'c'}")
    assert "test: 5 images" in check
    sheet = tmp_path / "sheet.png"
    keys = ["data.image_size=32", "model.encoder_type=vit_tiny_patch8_32", f"data.cache_dir={tmp_path / 'c'}"]
    run("preview", "--dataset", "webdataset", "--data-path", tmp_path / "out", "--output", sheet, "--rows", 3, *keys)
    assert sheet.stat().st_size > 1000


def test_shards_of_unused_splits_are_noted(tmp_path: Path, settings: Make) -> None:
    for name, count in (("training", 4), ("dev", 3), ("valid", 1), ("test", 2), ("extra", 5)):
        write_shards(tmp_path / "shards" / name, [count])
    splits = build_splits(settings(tmp_path / "shards"))
    assert [len(splits.of(split)) for split in ("train", "validation", "test")] == [4, 1, 2]
    said = "\n".join(check_dataset(settings(tmp_path / "shards")).notes)
    assert "2 shards of other splits are not used: dev/shard-0000.tar, extra/shard-0000.tar" in said


def test_images_with_rare_suffixes_are_found_after_other_files(tmp_path: Path, settings: Make) -> None:
    members = [(f"{i}.{suffix}", content) for i in range(4) for suffix, content in _parts(i)]
    write_tar(tmp_path / "shards" / "a.tar", members)
    dataset = build_dataset(settings(tmp_path / "shards", test_fraction=0.01, storage="workers"))
    assert not dataset.bad_files
    assert all(torch.equal(dataset.read(i), _pixels(int(Path(dataset.identifiers[i]).name[6:]))) for i in range(3))


def _parts(number: int) -> list[tuple[str, bytes]]:
    # `.tga` may be a picture, but where `.png` is there too that is the one.
    return [("tga", b"no picture"), ("png", encode(noise(number)))] if number % 2 else [("jfif", _jpeg(number))]


def _jpeg(number: int) -> bytes:
    return encode(noise(number), "JPEG")


def _pixels(number: int) -> torch.Tensor:
    content = encode(noise(number)) if number % 2 else _jpeg(number)
    return decode(content).pixels
