"""Which images an evaluation uses: validation never uses test images, and no image moves to another split."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.conftest import TINY
from typer.testing import CliRunner

from hjepa.cli.main import app
from hjepa.config import load_config
from hjepa.data import build_splits
from hjepa.errors import UserError
from hjepa.evaluation import evaluate, format_table
from hjepa.evaluation.settings import check_own_split, evaluation_config, is_own_data
from hjepa.training import run_training
from hjepa.zoo import load_encoder, pack_run


@pytest.fixture(scope="module")
def both(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate(run_dir, device="cpu", output=tmp_path_factory.mktemp("splits") / "r.json")


@pytest.fixture(scope="module")
def validation(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate(run_dir, split="validation", device="cpu", output=tmp_path_factory.mktemp("splits") / "r.json")


def test_results_name_the_split_that_was_read(both: dict[str, Any], validation: dict[str, Any]) -> None:
    assert (both["split"], both["images"], both["test_images"]) == ("test", 60, 60)
    assert (validation["split"], validation["images"]) == ("validation", 20)
    assert "test_images" not in validation
    assert "20 validation images" in validation["protocol"]
    assert " test " not in validation["protocol"]


def test_validation_scores_are_the_same_with_and_without_test(both: dict[str, Any], validation: dict[str, Any]) -> None:
    for kind in ("linear_probe", "knn"):
        assert both["validation"][kind] == validation[kind]
        assert both["validation"][kind] != both[kind]
    assert both["validation"]["images"] == validation["images"]
    assert both["rank"] == validation["rank"]


def test_the_table_names_the_split(both: dict[str, Any], validation: dict[str, Any]) -> None:
    head, *lines = format_table(both).splitlines()
    assert "60 test images" in head
    probe, knn = (100 * both["validation"][kind]["trained"] for kind in ("linear_probe", "knn"))
    assert (
        f"on 20 validation images: linear probe {probe:.1f}, k-NN-20 {knn:.1f}; use these to choose between runs"
        in lines[-1]
    )
    head, *lines = format_table(validation).splitlines()
    assert "20 validation images" in head
    assert not any("test" in line for line in lines)


def test_each_split_has_its_own_results_file(run_dir: Path) -> None:
    evaluate(run_dir, split="validation", device="cpu", eval_type="knn", k_values=[1])
    assert json.loads((run_dir / "results_validation.json").read_text())["split"] == "validation"
    evaluate(run_dir, dataset="digits", split="validation", device="cpu", eval_type="knn", k_values=[1])
    assert json.loads((run_dir / "results_digits_validation.json").read_text())["dataset"] == "digits"


def picture_run(root: Path, parts: dict[str, int], **keys: Any) -> Path:
    """A run on a folder of images of two classes."""
    generator = np.random.default_rng(0)
    for part, count in parts.items():
        for label in "ab":
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                array = generator.integers(0, 255, (18, 22, 3), dtype=np.uint8)
                Image.fromarray(array).save(root / part / label / f"{number:03d}.png")
    changes = {"data.dataset": "folder", "data.data_path": str(root), "data.subset": None, **keys}
    folder = root.with_name(f"{root.name}_run")
    run_training(load_config(TINY, changes), output_dir=folder, console=False)
    return folder


def test_reading_validation_never_touches_test(tmp_path: Path) -> None:
    run = picture_run(tmp_path / "pictures", {"train": 40, "test": 10}, **{"data.bad_images": "stop"})
    for file in (tmp_path / "pictures" / "test").rglob("*.png"):
        file.write_bytes(b"gone")
    assert evaluate(run, split="validation", device="cpu")["images"] == 8
    with pytest.raises(UserError, match="bad_images=stop"):
        evaluate(run, split="test", device="cpu")


def test_labels_of_validation_images_are_never_fitted(tmp_path: Path) -> None:
    """Wrong labels on validation images do not change the test scores."""
    run = picture_run(tmp_path / "pictures", {"train": 40, "test": 10})
    before = evaluate(run, device="cpu", eval_type="knn", k_values=[3])
    config = load_config(run / "config.yaml")
    splits = build_splits(config.data, config.seed)
    names = list(splits.of("validation").identifiers)
    fitted = {splits.train.identifiers[row] for row in splits.fit_rows.tolist()}
    assert not fitted & set(names)
    assert before["train_images"] == len(fitted) == 72
    generator = np.random.default_rng(1)
    for name in names:  # other images under the same names, so other features for the same references
        array = generator.integers(0, 255, (18, 22, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "pictures" / name)
    after = evaluate(run, device="cpu", eval_type="knn", k_values=[3])
    assert after["knn"] == before["knn"]


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a data set whose test images are drawn from the seed."""
    folder = tmp_path_factory.mktemp("drawn") / "run"
    run_training(load_config(TINY, {"data.dataset": "digits"}), output_dir=folder, console=False)
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.test_fraction=0.5", "data.test_fraction: 0.5 differs from the run's 0.2"),
        ("data.validation_fraction=0.3", "data.validation_fraction: 0.3 differs from the run's auto"),
        ("data.subset=100", "data.subset: 100 differs from the run's 200"),
        ("data.subset=null", "data.subset: null differs from the run's 200"),
    ],
)
def test_the_run_s_own_split_cannot_change(drawn_run: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        evaluate(drawn_run, device="cpu", overrides=[override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (drawn_run / "results.json").exists()
    # Allowed for another data set, since none of its images were used for training.
    evaluate(drawn_run, dataset="shapes", device="cpu", eval_type="knn", k_values=[1], overrides=[override])


def test_labels_that_would_move_images_between_the_splits_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    run = picture_run(root, {"all": 40})
    table = tmp_path / "labels.csv"
    rows = [f"{file.relative_to(root).as_posix()},{'xyz'[i % 3]}" for i, file in enumerate(sorted(root.rglob("*.png")))]
    table.write_text("\n".join(["file,label", *rows]))
    with pytest.raises(UserError, match=r"data\.labels_file: test images are drawn by class"):
        evaluate(run, device="cpu", overrides=[f"data.labels_file={table}"])


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of images, with labels from class folders, whose test images are drawn."""
    return picture_run(tmp_path_factory.mktemp("folder") / "pictures", {"all": 30})


@pytest.mark.parametrize("recorded", [True, False])
def test_a_copy_of_the_run_s_images_is_still_its_own_data(folder_run: Path, tmp_path: Path, recorded: bool) -> None:
    copy = tmp_path / "elsewhere" / "photos"
    shutil.copytree(folder_run.with_name("pictures"), copy)
    (copy / "all" / "a" / "000.png").unlink()  # and images removed or added do not make it another data set
    run = load_encoder(folder_run, device="cpu")
    assert run.sample is not None
    if not recorded:  # as runs of earlier versions
        run = replace(run, sample=None)
    config = evaluation_config(run.config, 3, data_path=copy)
    assert is_own_data(run, config) is True
    with pytest.raises(UserError, match=r"data\.test_fraction: 0\.5 differs from the run's 0\.2"):
        evaluate(folder_run, data_path=copy, device="cpu", overrides=["data.test_fraction=0.5"])


def test_other_images_under_the_same_names_are_another_data_set(folder_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(folder_run.with_name("pictures"), copy)
    generator = np.random.default_rng(7)
    for file in copy.rglob("*.png"):
        Image.fromarray(generator.integers(0, 255, (18, 22, 3), dtype=np.uint8)).save(file)
    run = load_encoder(folder_run, device="cpu")
    assert is_own_data(run, evaluation_config(run.config, 3, data_path=copy)) is False
    keys = ["data.test_fraction=0.5"]
    evaluate(folder_run, data_path=copy, device="cpu", eval_type="knn", k_values=[1], overrides=keys)


def test_images_that_cannot_be_compared_with_the_run_s_count_as_its_own(folder_run: Path, tmp_path: Path) -> None:
    run = load_encoder(folder_run, device="cpu")
    gone = load_config(run.config.model_dump(mode="json"), {"data.data_path": str(tmp_path / "gone")})
    earlier = replace(run, sample=None, config=gone)
    keys = {"data.test_fraction": 0.5}
    config = evaluation_config(gone, 3, data_path=folder_run.with_name("pictures"), overrides=keys)
    own = is_own_data(earlier, config)
    assert own is None
    with pytest.raises(
        UserError, match=r"data\.test_fraction: .* \(it cannot be checked whether these are the run's images\)"
    ):
        check_own_split(gone, config, build_splits(config.data, config.seed), own=own)


def test_a_packed_run_knows_its_images_without_revealing_their_names(folder_run: Path, tmp_path: Path) -> None:
    packed = pack_run(folder_run, tmp_path / "packed", name="tiny")
    run = load_encoder(packed, device="cpu")
    assert run.config.data.data_path is None
    config = evaluation_config(run.config, 3, data_path=folder_run.with_name("pictures"))
    assert is_own_data(run, config) is True
    assert ".png" not in (packed / "model.json").read_text()


def test_labels_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    generator = np.random.default_rng(0)
    names = [f"{number:02d}.png" for number in range(40)]
    for name in names:
        Image.fromarray(generator.integers(0, 255, (18, 22, 3), dtype=np.uint8)).save(root / name)
    first.write_text("\n".join(["file,label", *(f"{name},{i % 2}" for i, name in enumerate(names))]))
    second.write_text("\n".join(["file,label", *(f"{name},{i // 20}" for i, name in enumerate(names))]))
    keys = {"data.dataset": "folder", "data.data_path": str(root), "data.labels_file": str(first), "data.subset": None}
    run_training(load_config(TINY, keys), output_dir=tmp_path / "run", console=False)
    first.rename(tmp_path / "moved.csv")
    with pytest.raises(UserError, match=r"data\.labels_file: the run's file .*first\.csv is gone") as error:
        evaluate(tmp_path / "run", device="cpu", overrides={"data.labels_file": str(second)})
    assert "\n" not in str(error.value)


def test_classes_cannot_change_for_the_run_s_own_data(folder_run: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("a\n")
    with pytest.raises(UserError, match=r"data\.classes_file: .* differs from the run's null"):
        evaluate(folder_run, device="cpu", overrides={"data.classes_file": str(classes)})


def test_without_validation_images_the_probe_uses_every_training_label(run_dir: Path, tmp_path: Path) -> None:
    keys = ["data.validation_fraction=0", "evaluation.train_images=null"]
    every = evaluate(run_dir, device="cpu", eval_type="knn", output=tmp_path / "r.json", overrides=keys)
    most = evaluate(run_dir, device="cpu", eval_type="knn", output=tmp_path / "r.json", overrides=keys[1:])
    assert (every["train_images"], most["train_images"]) == (200, 180)
    assert "validation" not in every
    with pytest.raises(
        UserError, match=r"no validation images to evaluate, since data\.validation_fraction=0 withholds none; set"
    ):
        evaluate(run_dir, split="validation", device="cpu", output=tmp_path / "r.json", overrides=keys)


def test_withheld_images_do_not_change_the_order_of_the_others() -> None:
    from hjepa.evaluation.sample import draw_train

    labels = torch.arange(300) % 3
    withheld = torch.zeros(300, dtype=torch.bool)
    withheld[::7] = True
    order = draw_train(None, 300, 300, 0)
    assert torch.equal(draw_train(None, 300, None, 0, withheld), order[~withheld[order]])
    drawn = draw_train(labels, 300, 60, 0, withheld)
    assert not withheld[drawn].any()
    assert torch.bincount(labels[drawn]).tolist() == [20, 20, 20]
    assert len(set(drawn.tolist()) & set(draw_train(labels, 300, 60, 0).tolist())) >= 40


def test_the_split_can_be_chosen_on_the_command_line(run_dir: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", "--checkpoint", str(run_dir), "--device", "cpu", "--eval-type", "knn", "--k-values", "1"]
    found = CliRunner().invoke(app, [*arguments, "--split", "validation", "--output", str(tmp_path / "r.json")])
    assert found.exit_code == 0, found.output
    assert "20 validation images" in found.stdout
    wrong = CliRunner().invoke(app, [*arguments, "--split", "val"])
    assert isinstance(wrong.exception, UserError)
    assert str(wrong.exception) == "split: unknown value 'val'; use validation or test"
