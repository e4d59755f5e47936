"""Loaders of ADE20K, VOC, COCO and folders of masks, on layouts made here; and generated scenes as a data set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa.data import EvalLoader
from hjepa.data.dense import IGNORED, build_dense
from hjepa.errors import DataError, UserError

GENERATOR = np.random.default_rng(0)


def build(name, path, kind="dense", **changes):
    keys = {"image_size": (32, 32), "channels": 3, "train_images": 20, "test_images": 5, "seed": 0}
    return build_dense(name, path, kind, **{**keys, **changes})


def picture(path: Path, height: int = 20, width: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GENERATOR.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def mask(path: Path, values: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image.putpalette([value % 256 for value in range(768)])
    image.save(path)


def values(height: int = 20, width: int = 30, most: int = 3) -> np.ndarray:
    return GENERATOR.integers(0, most, (height, width))


def loaded(dataset, size=(16, 16)):
    zero, one = (0.0,) * dataset.channels, (1.0,) * dataset.channels
    loader = EvalLoader(
        dataset, None, size, mean=zero, std=one, batch_size=4, device=torch.device("cpu"), with_targets=True
    )
    return list(loader)


def test_voc(tmp_path):
    home = tmp_path / "VOCdevkit" / "VOC2012"
    truth = values(most=21)
    truth[0, :5] = 255
    for name in ("a", "b", "c"):
        picture(home / "JPEGImages" / f"{name}.jpg")
        mask(home / "SegmentationClass" / f"{name}.png", truth, palette=True)
    listed = home / "ImageSets" / "Segmentation"
    listed.mkdir(parents=True)
    (listed / "train.txt").write_text("a\nb\n")
    (listed / "val.txt").write_text("c\n")
    for root in (tmp_path, home):
        found = build("voc", root)
        assert (len(found.train), len(found.test), len(found.classes)) == (2, 1, 21)
        assert found.test.identifiers == ["JPEGImages/c.jpg"]
        # Palette indices, not colours.
        assert torch.equal(found.train.sample(0).target, torch.from_numpy(truth).int())
    (batch,) = loaded(found.train)
    assert batch.images.shape == (2, 3, 16, 16)
    # The same centred square as of the image, by nearest sampling.
    rows, columns = (2 * np.arange(16) + 1) * 20 // 32, 5 + (2 * np.arange(16) + 1) * 20 // 32
    assert torch.equal(batch.targets.dense[0][0], torch.from_numpy(truth[np.ix_(rows, columns)]))


def test_ade20k(tmp_path):
    home = tmp_path / "ADEChallengeData2016"
    for folder, names in (("training", "xy"), ("validation", "z")):
        for name in names:
            picture(home / "images" / folder / f"{name}.jpg")
            mask(home / "annotations" / folder / f"{name}.png", np.tile([[0, 1, 150]], (20, 10)))
    found = build("ade20k", tmp_path)
    assert (len(found.train), len(found.test), len(found.classes)) == (2, 1, 150)
    # 0 is no class of the benchmark.
    assert found.train.sample(0).target[0, :3].tolist() == [IGNORED, 0, 149]
    assert found.classes[0] == "1"
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"] + [f"{n}\t0\t0\t0\t0\tthing {n}, other" for n in range(1, 151)]
    (home / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    assert build("ade20k", home).classes[149] == "thing 150"


@pytest.mark.parametrize("divided", [True, False])
def test_own_images_and_masks(tmp_path, divided):
    names = [("train", n) for n in range(8)] + [("val", n) for n in range(2)]
    for folder, number in names:
        home = tmp_path / folder if divided else tmp_path
        picture(home / "images" / f"{folder}{number}.png")
        mask(home / "masks" / f"{folder}{number}.png", np.full((20, 30), number % 4))
    found = build("masks", tmp_path)
    assert (len(found.train), len(found.test)) == (8, 2)
    assert len(found.classes) == 4
    shown = found.train.identifiers + found.test.identifiers
    assert len(set(shown)) == 10
    for data in (found.train, found.test):
        for row, name in enumerate(data.identifiers):
            assert int(data.sample(row).target[0, 0]) == int(name[-5]) % 4
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\nrock\ntree\n")
    assert build("masks", tmp_path).classes[-1] == "tree"


def coco(root: Path, *, word: str, year: str = "2017", names=("left", "right")) -> None:
    picture(root / f"{word}{year}" / "one.jpg", 40, 60)
    picture(root / f"{word}{year}" / "two.jpg", 40, 60)
    tree = {
        "images": [{"id": 9, "file_name": "two.jpg"}, {"id": 4, "file_name": "one.jpg"}],
        # Numbers with gaps, as in COCO.
        "categories": [{"id": 7, "name": names[1]}, {"id": 3, "name": names[0]}],
        "annotations": [
            {"image_id": 4, "category_id": 7, "bbox": [20.0, 5.0, 12.0, 8.0]},
            {"image_id": 4, "category_id": 3, "bbox": [10.0, 0.0, 40.0, 40.0], "iscrowd": 1},
            {"image_id": 4, "category_id": 3, "bbox": [30.0, 10.0, 0.0, 8.0]},
        ],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{word}{year}.json").write_text(json.dumps(tree))


def test_coco(tmp_path):
    coco(tmp_path, word="train")
    coco(tmp_path, word="val")
    found = build("coco", tmp_path, "boxes")
    assert found.classes == ("left", "right")
    assert found.train.identifiers == ["one.jpg", "two.jpg"]
    # Left, top, width, height become top, left, height, width; crowds and empty boxes are left out.
    boxes, labels = found.train.sample(0).target
    assert boxes.tolist() == [[5, 20, 8, 12]]
    assert labels.tolist() == [1]
    assert len(found.train.sample(1).target.labels) == 0
    (batch,) = loaded(found.test, (20, 20))
    # The centred 40 x 40 of 40 x 60, halved.
    assert batch.targets.boxes[0][0].boxes.tolist() == [[2.5, 5, 4, 6]]


def test_scenes_divide_into_splits_without_overlap():
    found = build("shape_scenes", None, "boxes", train_images=30, test_images=12)
    rows = {split: found.rows(split, 0, None)[1] for split in ("train", "validation", "test")}
    assert len(rows["train"]) >= 30
    assert len(rows["test"]) == 12
    assert not set(rows["train"].tolist()) & set(rows["validation"].tolist())
    assert len(found.rows("train", 0, 10)[1]) == 10
    assert found.test.targets.kind == "boxes"
    assert build("shape_scenes", None).test.targets.kind == "dense"


def test_missing_parts_are_one_line_errors(tmp_path):
    (tmp_path / "annotations").mkdir()
    cases = [
        ("voc", tmp_path, "dense", "train.txt: not found; expected the VOC layout"),
        ("ade20k", tmp_path, "dense", "training: not found; expected the ADEChallengeData2016 layout"),
        ("masks", tmp_path, "dense", "images: not found; expected folders images and masks"),
        ("coco", tmp_path, "boxes", "instances_train*.json: not found"),
        ("voc", None, "dense", "evaluation.segmentation.data_path: missing; say where voc is"),
        ("voc", tmp_path / "gone", "dense", "is not a folder"),
        ("coco", None, "dense", "unknown data set 'coco'; use shape_scenes, ade20k, voc, masks"),
    ]
    for name, path, kind, message in cases:
        with pytest.raises(UserError) as error:
            build(name, path, kind)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_damaged_files_are_one_line_errors(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    mask(tmp_path / "masks" / "a.png", values())
    with pytest.raises(DataError, match=r"b\.png: there is no mask of this name"):
        build("masks", tmp_path)
    picture(tmp_path / "masks" / "b.png")
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    found = build("masks", tmp_path)
    damaged = next(data for data in (found.train, found.test) if data.identifiers == ["images/b.png"])
    with pytest.raises(DataError, match=r"its mask masks/b\.png has colours; expected one value per pixel"):
        damaged.sample(0)
    coco(tmp_path, word="train")
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match=r"instances_train2017\.json: not a COCO file of instances"):
        build("coco", tmp_path, "boxes")
    file.write_text("{}")
    with pytest.raises(DataError, match=r"\(no 'categories'\)"):
        build("coco", tmp_path, "boxes")


def test_splits_with_other_categories_are_refused(tmp_path):
    coco(tmp_path, word="train")
    coco(tmp_path, word="val", names=("left", "middle"))
    with pytest.raises(DataError, match="categories of training and validation differ"):
        build("coco", tmp_path, "boxes")
