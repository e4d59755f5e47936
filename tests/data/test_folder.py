"""Folders of images: classes, splits, tables of labels, selected classes, subsets."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.data.image_files import encode, noise

from hjepa.config import DataConfig
from hjepa.data import ImageDataset, build_dataset
from hjepa.errors import UserError


def folder(path: Path, split: str = "train", seed: int = 0, **keys: object) -> ImageDataset:
    return build_dataset(DataConfig(dataset="folder", data_path=path, **keys), split, seed=seed)


def fails(match: str, path: Path, split: str = "train", **keys: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        folder(path, split, **keys)
    assert "\n" not in str(caught.value)


def test_class_folders_and_a_seeded_stratified_split(class_folder: Path) -> None:
    train, test = folder(class_folder), folder(class_folder, "test")
    assert train.class_names == ("ant", "bee", "cat")
    assert set(train.identifiers).isdisjoint(test.identifiers)
    assert len(train) + len(test) == 24
    assert train.labels.bincount().tolist() == [8, 6, 5]
    assert test.labels.bincount().tolist() == [2, 2, 1]
    for dataset in (train, test):
        assert all(
            name.startswith(dataset.class_names[label] + "/")
            for name, label in zip(dataset.identifiers, dataset.labels.tolist(), strict=True)
        )
    assert folder(class_folder).identifiers == train.identifiers
    assert folder(class_folder, seed=1).identifiers != train.identifiers
    assert len(folder(class_folder, "test", test_fraction=0.5)) == 12


def test_read_returns_the_pixels_of_the_file(class_folder: Path) -> None:
    dataset = folder(class_folder, storage="workers")
    index = dataset.identifiers.index("ant/0.png")
    assert torch.equal(dataset.read(index), torch.from_numpy(noise(0).transpose(2, 0, 1).copy()))
    assert torch.equal(folder(class_folder).read(index), dataset.read(index))
    with pytest.raises(IndexError):
        dataset.read(len(dataset))


def test_class_is_the_first_folder_and_a_single_folder_is_descended_into(class_folder: Path) -> None:
    (class_folder / "ant" / "2024" / "may").mkdir(parents=True)
    shutil.move(class_folder / "ant" / "0.png", class_folder / "ant" / "2024" / "may" / "0.png")
    (class_folder / "__MACOSX").mkdir()
    dataset = folder(class_folder.parent)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert len(dataset) + len(folder(class_folder.parent, "test")) == 24


def test_flat_folder_has_no_labels(mixed_folder: Path) -> None:
    for name in ("cut.jpg", "notes.jpg"):
        (mixed_folder / name).unlink()
    train, test = folder(mixed_folder), folder(mixed_folder, "test")
    assert train.labels is None
    assert train.class_names is None
    assert (len(train), len(test)) == (8, 2)
    assert not any(name.startswith(".") or name.endswith(".txt") for name in train.identifiers + test.identifiers)


@pytest.mark.parametrize("name", ["test", "val", "valid"])
def test_split_folders_are_used(class_folder: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "split"
    shutil.copytree(class_folder, root / "train")
    shutil.copytree(class_folder / "cat", root / name / "cat")
    train, test = folder(root), folder(root, "test")
    assert (len(train), len(test)) == (24, 6)
    # A class that one split lacks does not shift the others.
    assert test.class_names == train.class_names == ("ant", "bee", "cat")
    assert test.labels.unique().tolist() == [2]


def test_a_class_named_train_is_not_a_split(class_folder: Path) -> None:
    (class_folder / "bee").rename(class_folder / "train")
    assert folder(class_folder).class_names == ("ant", "cat", "train")


def test_numbered_classes_are_in_numerical_order(class_folder: Path) -> None:
    for old, new in (("ant", "10"), ("bee", "9"), ("cat", "1")):
        (class_folder / old).rename(class_folder / new)
    assert folder(class_folder).class_names == ("1", "9", "10")


def test_images_beside_class_folders_have_no_label(class_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(5):
        (class_folder / f"loose{index}.png").write_bytes(encode(noise(index)))
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        dataset = folder(class_folder)
    assert (dataset.labels == -1).sum() == 4
    assert f"5 images in {class_folder} without a label" in caplog.text


def test_cyclic_links_do_not_loop(class_folder: Path) -> None:
    (class_folder / "ant" / "again").symlink_to(class_folder, target_is_directory=True)
    assert len(folder(class_folder)) + len(folder(class_folder, "test")) == 24


@pytest.mark.parametrize(("subset", "counts"), [(6, [2, 2, 2]), (0.5, [4, 3, 3]), (17, [6, 6, 5]), (1000, [8, 6, 5])])
def test_subset_is_balanced_and_seeded_and_applies_to_train_only(
    class_folder: Path, subset: float, counts: list[int]
) -> None:
    dataset = folder(class_folder, subset=subset)
    found = dataset.labels.bincount().tolist()
    assert sorted(found) == sorted(counts)
    assert folder(class_folder, subset=subset).identifiers == dataset.identifiers
    assert set(dataset.identifiers) <= set(folder(class_folder).identifiers)
    assert len(folder(class_folder, "test", subset=subset)) == 5


def test_subsets_are_nested_and_depend_on_the_seed(class_folder: Path) -> None:
    small, large = (set(folder(class_folder, subset=n).identifiers) for n in (5, 12))
    assert small < large
    other = Counter(tuple(folder(class_folder, subset=1, test_fraction=0.1, seed=s).identifiers) for s in range(20))
    assert len(other) > 5


def test_labels_file(mixed_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    names = sorted(p.name for p in mixed_folder.iterdir() if p.name[0] != "." and p.suffix != ".txt")
    lines = [f"{name},{('zebra', 'ape', '')[index % 3]},ignored" for index, name in enumerate(names)]
    table.write_text("file, label ,note\n" + "\n".join(lines) + "\n", encoding="utf-8-sig")
    dataset = folder(mixed_folder, labels_file=table, test_fraction=0.01)
    assert dataset.class_names == ("ape", "zebra")
    expected = {name: (1, 0, -1)[index % 3] for index, name in enumerate(names)}
    assert {n: expected[n] for n in dataset.identifiers} == dict(
        zip(dataset.identifiers, dataset.labels.tolist(), strict=True)
    )


def test_labels_file_with_split_folders_and_numbers(class_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    shutil.copytree(class_folder / "ant", root / "train")
    shutil.copytree(class_folder / "bee", root / "test")
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    table = tmp_path / "labels.csv"
    table.write_text("label,file\n" + "".join(f"{(2, 10)[i % 2]},{f}\n" for i, f in enumerate(files)), encoding="utf-8")
    train, test = (folder(root, split, labels_file=table) for split in ("train", "test"))
    assert (len(train), len(test)) == (10, 8)
    assert train.class_names == test.class_names == ("2", "10")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name,label\na.png,x\n", r"no column 'file'.*is name,label"),
        ("", r"no column 'file'.*is empty"),
        ("file,label\na.png\n", "line 2: expected a file and a label"),
        ("file,label\na.png,x\nc.png,x\n", "line 3: no image 'c.png'"),
        ("file,label\na.png,x\n", r"no row for 1 of 2 images, for example b.png"),
        ("file,label\na.png,x\na.png,y\n", r"line 3: a.png has label 'y' here but 'x' in line 2"),
        ("file,label\na.png,\nb.png,\n", "contains no labels"),
        ('file,label\n"a.png,x\n', "cannot be read as CSV"),
        ("file,label\na.png,\0\n", "labels_file"),
    ],
)
def test_labels_file_mistakes(tmp_path: Path, text: str, match: str) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for name in "ab":
        (root / f"{name}.png").write_bytes(encode(noise(1)))
    table = tmp_path / "labels.csv"
    table.write_text(text, encoding="utf-8")
    fails(match, root, labels_file=table)


def test_labels_file_missing_or_unsupported_by_the_data_set(tmp_path: Path, class_folder: Path) -> None:
    fails("data.labels_file: .*none.csv does not exist", class_folder, labels_file=tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"supported only for data.dataset=folder"):
        build_dataset(DataConfig(dataset="digits", labels_file=tmp_path / "none.csv"))


def test_classes_file_selects_and_renumbers_classes(class_folder: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "classes.txt"
    chosen.write_text("cat\n\nant\n", encoding="utf-8")
    dataset = folder(class_folder, classes_file=chosen)
    assert dataset.class_names == ("cat", "ant")
    assert dataset.labels.bincount().tolist() == [5, 8]
    assert all(
        name.startswith(dataset.class_names[label])
        for name, label in zip(dataset.identifiers, dataset.labels.tolist(), strict=True)
    )
    # The split is drawn before classes are chosen: what is held out of the whole set stays held out.
    assert set(dataset.identifiers) <= set(folder(class_folder).identifiers)
    assert folder(class_folder, classes_file=chosen, subset=4).labels.bincount().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ant\nBees\n", "unknown class 'Bees'; did you mean 'bee'?"),
        ("ant\nxyz\n", "the classes are ant, bee, cat"),
        ("ant\nant\n", "'ant' more than once"),
        (" \n", "is empty"),
    ],
)
def test_classes_file_mistakes(class_folder: Path, tmp_path: Path, text: str, match: str) -> None:
    chosen = tmp_path / "classes.txt"
    chosen.write_text(text, encoding="utf-8")
    fails(match, class_folder, classes_file=chosen)


def test_other_mistakes(class_folder: Path, tmp_path: Path, mixed_folder: Path) -> None:
    fails("data.classes_file: .* does not exist", class_folder, classes_file=tmp_path / "none.txt")
    (tmp_path / "classes.txt").write_text("ant", encoding="utf-8")
    fails("images of this data set have no classes", mixed_folder, classes_file=tmp_path / "classes.txt")
    fails("data.data_path: .* does not exist", tmp_path / "nowhere")
    fails("is a file", class_folder / "ant" / "0.png")
    (tmp_path / "empty").mkdir()
    fails(r"no images in .*empty; give a folder with .jpg", tmp_path / "empty")
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "a.png").write_bytes(encode(noise(1)))
    fails("no images for the test split", tmp_path / "single", split="test")
    with pytest.raises(UserError, match=r"data.data_path: required for data.dataset=folder"):
        build_dataset(DataConfig(dataset="folder"))
