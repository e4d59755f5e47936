"""Common folder layouts: names of splits, other files and folders, tables of labels, suffixes, links."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from tests.data.image_files import encode, noise

from hjepa.config import DataConfig
from hjepa.data import ImageDataset, IntegrityReport, build_dataset, check_dataset
from hjepa.errors import DataError, UserError


def put(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(noise(seed)))


def two_classes(root: Path, splits: Sequence[str], count: int = 3) -> Path:
    """Folders of splits with the classes cat and dog."""
    for number, split in enumerate(splits):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                put(root / split / name / f"{index}.png", 1000 * number + 100 * label + index)
    return root


def folder(path: Path, split: str = "train", **keys: object) -> ImageDataset:
    return build_dataset(DataConfig(dataset="folder", data_path=path, **keys), split)


def check(path: Path, **keys: object) -> IntegrityReport:
    return check_dataset(DataConfig(dataset="folder", data_path=path, **keys))


def notes(path: Path, **keys: object) -> str:
    return "\n".join(check(path, **keys).notes)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("training", "testing"),
        ("train", "dev"),
        ("Train", "Val"),
        ("train2017", "val2017"),
        ("training_set", "test_set"),
        ("train", "eval"),
    ],
)
def test_common_folder_names_are_recognised_as_splits(tmp_path: Path, train: str, test: str) -> None:
    two_classes(tmp_path, (train, test))
    for split, name in (("train", train), ("test", test)):
        dataset = folder(tmp_path, split)
        assert dataset.class_names == ("cat", "dog")
        assert len(dataset) == 6
        assert all(identifier.startswith(f"{name}/") for identifier in dataset.identifiers)


def test_folders_beside_splits_are_left_out_with_a_note(tmp_path: Path) -> None:
    two_classes(tmp_path, ("train", "test"))
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "x.json").write_text("{}")
    put(tmp_path / "drafts" / "a.png", 7)
    assert folder(tmp_path).class_names == ("cat", "dog")
    assert len(folder(tmp_path)) == len(folder(tmp_path, "test")) == 6
    assert "left out beside train/ and test/: annotations, drafts" in notes(tmp_path)


def test_class_names_that_contain_split_words_stay_classes(tmp_path: Path) -> None:
    for label, name in enumerate(("train-station", "test-tube", "car")):
        for index in range(4):
            put(tmp_path / name / f"{index}.png", 100 * label + index)
    assert folder(tmp_path).class_names == ("car", "test-tube", "train-station")


def test_a_train_folder_without_a_test_folder_is_a_class_with_a_note(tmp_path: Path) -> None:
    two_classes(tmp_path, ("train", "other"))
    assert folder(tmp_path).class_names == ("other", "train")
    assert "reading the folder train as a class" in notes(tmp_path)


def test_a_single_image_folder_beside_empty_ones_is_descended_into(tmp_path: Path) -> None:
    two_classes(tmp_path, ("train",), count=5)
    (tmp_path / "lost and found").mkdir()
    assert folder(tmp_path).class_names == ("cat", "dog")
    assert "folders without images" in notes(tmp_path)


def test_several_training_folders_are_rejected(tmp_path: Path) -> None:
    two_classes(tmp_path, ("train_images", "train_photos", "test_images"))
    with pytest.raises(DataError, match=r"several training folders \(train_images, train_photos\)"):
        folder(tmp_path)
    assert len(folder(tmp_path, exclude=["train_photos"])) == 6


def tiny_imagenet(root: Path, *, table: bool) -> Path:
    for number, name in enumerate(("n01443537", "n01629819")):
        for index in range(4):
            put(root / "train" / name / "images" / f"{name}_{index}.JPEG", 100 * number + index)
        (root / "train" / name / f"{name}_boxes.txt").write_text("n01443537_0.JPEG\t0\t0\t62\t44\n")
    for number, split in enumerate(("val", "test")):
        for index in range(4):
            put(root / split / "images" / f"{split}_{index}.JPEG", 500 + 10 * number + index)
    if table:
        rows = (f"val_{i}.JPEG\t{('n01629819', 'n01443537')[i % 2]}\t0\t32\t44\t62\n" for i in range(4))
        (root / "val" / "val_annotations.txt").write_text("".join(rows))
    return root


def test_labels_of_tiny_imagenet_are_read_from_its_table(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path, table=True)
    train, test = folder(root), folder(root, "test")
    assert train.class_names == test.class_names == ("n01443537", "n01629819")
    # val/ has labels and test/ has none, so val/ is what is tested on.
    assert [Path(name).name for name in test.identifiers] == [f"val_{i}.JPEG" for i in range(4)]
    assert test.labels.tolist() == [1, 0, 1, 0]
    said = notes(root)
    assert "val/: reading labels from val/val_annotations.txt" in said
    assert "test/ has no labels and is not used (4 images); val/ is the test split" in said


def test_test_images_without_class_folders_have_no_labels_and_add_no_class(tmp_path: Path) -> None:
    root = tiny_imagenet(tmp_path, table=False)
    assert folder(root).class_names == ("n01443537", "n01629819")
    assert folder(root, "test").labels is None
    assert "4 images without a label" in notes(root)


def test_test_folders_that_are_not_training_classes_give_no_labels(tmp_path: Path) -> None:
    two_classes(tmp_path, ("train",))
    for index in range(4):
        put(tmp_path / "test" / f"batch{index % 2}" / f"{index}.png", 50 + index)
    assert folder(tmp_path).class_names == ("cat", "dog")
    assert folder(tmp_path, "test").labels is None
    assert "its folders (batch0, batch1) are not classes of the training split" in notes(tmp_path)


def test_a_table_for_one_split_leaves_the_other_labelled_by_folders(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "set", ("train",))
    for index in range(4):
        put(root / "val" / f"{index}.png", 50 + index)
    table = tmp_path / "val.txt"
    table.write_text("".join(f"{i}.png {('dog', 'cat')[i % 2]}\n" for i in (3, 2, 1, 0)).replace("0.png", "val/0.png"))
    # 0.png lies in three folders, and only a path tells which one is meant.
    table.write_text(table.read_text().replace("1.png", "val/1.png").replace("2.png", "val/2.png"))
    test = folder(root, "test", labels_file=table)
    assert dict(zip(test.identifiers, test.labels.tolist(), strict=True)) == {
        "val/0.png": 1, "val/1.png": 0, "val/2.png": 1, "val/3.png": 0,
    }  # fmt: skip
    assert folder(root, labels_file=table).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_thumbnail_and_trash_folders_are_left_out_with_a_note(tmp_path: Path) -> None:
    for index in range(6):
        put(tmp_path / f"{index}.png", index)
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails", ".Trash-1000", "System Volume Information"):
        put(tmp_path / name / "0.png", 90)
    report = check(tmp_path)
    assert sum(split.images for split in report.splits.values()) == 6
    assert not report.splits["train"].classes
    said = "\n".join(report.notes)
    assert "@eaDir (1)" in said
    assert ".Trash-1000" in said


def test_exclude_matches_names_and_paths_and_is_noted(tmp_path: Path) -> None:
    two_classes(tmp_path, ("train", "test"))
    put(tmp_path / "train" / "cat" / "thumbs" / "0.png", 90)
    put(tmp_path / "train" / "dog" / "0_mask.png", 91)
    put(tmp_path / "train" / "draft" / "0.png", 92)
    patterns = ["thumbs", "*_mask.png", "train/draft", "nothing*"]
    assert len(folder(tmp_path)) == 9
    assert len(folder(tmp_path, exclude=patterns)) == 6
    assert folder(tmp_path, exclude=patterns).class_names == ("cat", "dog")
    said = notes(tmp_path, exclude=patterns)
    for name in ("train/cat/thumbs", "train/dog/0_mask.png", "train/draft"):
        assert name in said
    assert "'nothing*' matches nothing" in said
    with pytest.raises(UserError, match=r"data.exclude: supported only for data.dataset=folder"):
        build_dataset(DataConfig(dataset="digits", exclude=["x"]))


def test_suffixes_that_pillow_opens_are_read_and_others_counted(tmp_path: Path) -> None:
    kinds = {".jfif": "JPEG", ".avif": "AVIF", ".jp2": "JPEG2000", ".tga": "TGA", ".ico": "ICO", ".pbm": "PPM"}
    usable = {
        suffix: kind for suffix, kind in kinds.items() if kind in Image.SAVE or (Image.init() and kind in Image.SAVE)
    }
    for suffix, kind in usable.items():
        Image.fromarray(noise(1, 32, 32)).convert("1" if suffix == ".pbm" else "RGB").save(
            tmp_path / f"a{suffix}", kind
        )
    put(tmp_path / "b.png", 2)
    for name in ("c.heic", "d.heic", "notes.txt", "bare"):
        (tmp_path / name).write_bytes(b"x")
    report = check(tmp_path)
    assert sum(split.images for split in report.splits.values()) == len(usable) + 1
    assert not report.bad_files
    said = "\n".join(report.notes)
    assert "4 files without an image suffix: .heic (2), .txt (1), no suffix (1)" in said
    assert "cannot open .heic" in said


def test_error_for_a_folder_without_images_lists_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images in .*it contains .heic \(1\)"):
        folder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links to folders need rights there")
def test_two_class_folders_that_are_the_same_folder_are_noted(tmp_path: Path) -> None:
    for index in range(6):
        put(tmp_path / "elsewhere" / f"{index}.png", index)
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert "dog and cat are the same folder" in notes(tmp_path / "set")
    two_classes(tmp_path / "splits", ("train",))
    (tmp_path / "splits" / "test").symlink_to(tmp_path / "splits" / "train", target_is_directory=True)
    with pytest.raises(DataError, match="are the same folder"):
        folder(tmp_path / "splits", "test")


def test_check_reports_conversions_in_decoding(tmp_path: Path) -> None:
    (tmp_path / "alpha.png").write_bytes(encode(noise(1), mode="RGBA"))
    (tmp_path / "palette.png").write_bytes(encode(noise(2), mode="P"))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise(3)).save(tmp_path / "turned.jpg", exif=turned)
    put(tmp_path / "plain.png", 4)
    done: dict[str, int] = {}
    for storage in ("device", "workers"):
        report = check(tmp_path, test_fraction=0.01, storage=storage)
        done = {what: n for split in report.splits.values() for what, n in split.converted.items()}
        assert sum(done.values()) == 3
    assert any("transparency" in what for what in done)
    assert any("EXIF" in what for what in done)


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(4):
            put(tmp_path / name / f"{index}.png", index)
    (tmp_path / "a").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    dataset = folder(tmp_path)
    assert dataset.class_names == ("b", "\\udce9")
    dataset.read(0)


def test_each_note_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    two_classes(tmp_path, ("train", "test"))
    put(tmp_path / "extra" / "a.png", 1)
    folder(tmp_path)
    folder(tmp_path, "test")
    assert sum("left out beside" in record.getMessage() for record in caplog.records) == 1
    caplog.clear()
    check(tmp_path)
    assert not caplog.records
