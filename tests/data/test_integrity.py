"""Mixed and damaged files, `data.bad_images`, storage limits, duplicates, the report."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.image_files import encode, noise

from hjepa.config import DataConfig
from hjepa.data import ImageDataset, build_dataset, check_dataset, duplicates
from hjepa.data.loading import first_read
from hjepa.errors import DataError

BAD = {"cut.jpg", "notes.jpg"}


def build(path: Path, split: str = "train", **keys: object) -> ImageDataset:
    return build_dataset(DataConfig(dataset="folder", data_path=path, **keys), split)


@pytest.mark.parametrize("keep", ["auto", "workers"])
def test_exactly_the_bad_files_are_reported_and_skipped(
    mixed_folder: Path, keep: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        train = build(mixed_folder, storage=keep)
    # Those of the part that is held out are known, too.
    bad = {b.path: b.reason for b in train.bad_files}
    assert set(bad) == BAD
    assert bad["notes.jpg"] == "not an image"
    assert "truncated" in bad["cut.jpg"]
    assert {r.getMessage().split(":")[0] for r in caplog.records} == {f"skipped {name}" for name in BAD}
    datasets = [train, build(mixed_folder, "test", storage=keep)]
    assert sum(map(len, datasets)) == 10
    for dataset in datasets:
        assert dataset.channels == 3
        for index in range(len(dataset)):
            image = dataset.read(index)
            assert image.shape[0] == 3
            deep = dataset.identifiers[index].startswith("deep")
            assert image.dtype == (torch.uint16 if deep else torch.uint8)


def test_bad_images_stop_reports_bad_files_in_one_line(mixed_folder: Path) -> None:
    with pytest.raises(DataError, match=r"2 files cannot be read.*data.bad_images=skip") as caught:
        build(mixed_folder, bad_images="stop")
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in BAD)


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match=r"none of 3 files at .* can be read as an image, for example .*not an image"):
        build(tmp_path)


def test_more_than_twenty_bad_files_are_only_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.png").write_bytes(encode(noise(1)))
    (tmp_path / "good2.png").write_bytes(encode(noise(2)))
    for index in range(40):
        (tmp_path / f"{index}.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        dataset = build(tmp_path, test_fraction=0.001)
    count = len(dataset.bad_files)
    assert count == 40
    assert len(caplog.records) == 21
    assert caplog.records[-1].getMessage() == f"skipped {count - 20} more files that cannot be read"


def test_channels_are_those_of_the_files_unless_set(mixed_folder: Path, tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    for index in range(5):
        (grey / f"{index}.png").write_bytes(encode(noise(index, channels=1)))
    assert build(grey).channels == 1
    assert build(grey, channels=3).read(0).shape == (3, 12, 16)
    assert build(mixed_folder, channels=1).read(0).shape[0] == 1
    (grey / "5.png").write_bytes(encode(noise(5)))
    assert build(grey, test_fraction=0.01).channels == 3


def test_many_channels_and_mismatched_channels(tmp_path: Path) -> None:
    for index in range(4):
        np.save(tmp_path / f"{index}.npy", np.full((6, 5, 4), 1000 * index, dtype=np.uint16))
    dataset = build(tmp_path, test_fraction=0.1)
    assert dataset.channels == 6
    assert dataset.images.dtype == torch.uint16
    np.save(tmp_path / "z.npy", np.zeros((7, 5, 4), dtype=np.uint16))
    with pytest.raises(DataError, match=r"data.channels: the files have different numbers of channels"):
        build(tmp_path)
    bad = build(tmp_path, channels=6).bad_files
    assert [tuple(b) for b in bad] == [("z.npy", "has 7 channels, which cannot be converted to data.channels=6")]


def test_storage_depends_on_the_size(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(class_folder).decoded_bytes is not None
    assert build(class_folder, storage="workers").decoded_bytes is None
    monkeypatch.setattr(first_read, "MEMORY_LIMIT", 5000)
    assert build(class_folder).decoded_bytes is None
    assert build(class_folder, storage="device").decoded_bytes > 5000
    # The sample of files that is looked at first is smaller than what follows.
    monkeypatch.setattr(first_read, "_PROBES", 1)
    (class_folder / "ant" / "00.png").write_bytes(encode(noise(1, 1, 1)))
    monkeypatch.setattr(first_read, "MEMORY_LIMIT", 100)
    assert build(class_folder).decoded_bytes is None


def test_large_sets_are_not_scanned(mixed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_read, "SCAN_LIMIT", 5)
    dataset = build(mixed_folder, storage="workers", test_fraction=0.01)
    assert not dataset.bad_files
    assert BAD & set(dataset.identifiers)


def test_threads_do_not_change_decoded_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(encode(rng.integers(0, 256, (100, 120, 3), dtype=np.uint8)))
    (tmp_path / "4.png").write_bytes(b"x" * 30_000)
    dataset = build(tmp_path, test_fraction=0.01)
    encoded = build(tmp_path, test_fraction=0.01, storage="workers")
    assert dataset.images is not None
    assert all(torch.equal(dataset.read(i), encoded.read(i)) for i in range(len(dataset)))


def test_duplicates_across_splits_are_found(tmp_path: Path) -> None:
    for split, seeds in (("train", (0, 1, 2, 1)), ("test", (3, 1, 4))):
        (tmp_path / split).mkdir()
        for index, seed in enumerate(seeds):
            kind = "BMP" if split == "test" else "PNG"  # other bytes, the same pixels
            (tmp_path / split / f"{index}.{kind.lower()}").write_bytes(encode(noise(seed), kind))
    train, test = build(tmp_path), build(tmp_path, "test")
    assert duplicates(train, test) == [(1, 1)]
    report = check_dataset(DataConfig(dataset="folder", data_path=tmp_path))
    assert report.duplicates == [("train/1.png", "test/1.bmp")]


def test_report_counts_images_sizes_types_and_classes(mixed_folder: Path) -> None:
    report = check_dataset(DataConfig(dataset="folder", data_path=mixed_folder))
    assert {bad.path for bad in report.bad_files} == BAD
    splits = report.splits.values()
    assert sum(split.images for split in splits) == 10
    assert sum(split.types["uint8"] for split in splits if "uint8" in split.types) == 8
    assert sum(sum(split.sizes.values()) for split in splits) == 10
    assert sum(split.unlabelled for split in splits) == 10
    with pytest.raises(DataError, match=r"data.bad_images=stop"):
        check_dataset(DataConfig(dataset="folder", data_path=mixed_folder, bad_images="stop"))


def test_a_report_without_test_split_gives_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise(1)))
    report = check_dataset(DataConfig(dataset="folder", data_path=tmp_path))
    assert list(report.splits) == ["train"]
    assert "no images for the test split" in report.missing_test
