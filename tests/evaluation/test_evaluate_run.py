"""Evaluation of a real run, end to end."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa.errors import CheckpointError, UserError
from hjepa.evaluation import evaluate
from hjepa.runs.checkpoint import read_checkpoint, save_checkpoint
from hjepa.training import load_run


@pytest.fixture(scope="module")
def results(run_dir):
    return evaluate(run_dir, device="cpu")


def test_results_hold_every_number_between_zero_and_one(results):
    for kind in ("linear_probe", "knn"):
        for scores in (results[kind], *results["knn"]["by_k"].values()):
            for name in ("trained", "untrained", "pixels", "pca"):
                assert isinstance(scores[name], float)
                assert 0 <= scores[name] <= 1
            assert [entry["level"] for entry in scores["levels"]] == [0, 1]
            assert all(0 <= entry[name] <= 1 for entry in scores["levels"] for name in ("trained", "untrained"))
    assert results["knn"]["k"] == 20
    assert list(results["knn"]["by_k"]) == ["1", "5", "10", "20"]
    assert (results["train_images"], results["test_images"]) == (80, 60)
    assert results["chance"] == 1 / results["classes"]
    assert 0 < results["majority"] < 1
    assert results["step"] == 4
    assert results["seed"] == 3
    assert "16x16" in results["protocol"]


def test_ranks_and_similarities_are_in_range(results):
    rank = results["rank"]
    assert rank["width"] == 16
    for name in ("trained", "untrained"):
        assert 1 <= rank[name] <= 32
        assert all(1 <= entry[name] <= 16 for entry in rank["levels"])
    cka = np.array(results["cka"])
    assert cka.shape == (2, 2)
    np.testing.assert_allclose(np.diag(cka), 1)
    assert (cka >= 0).all()
    assert (cka <= 1).all()


def test_the_results_file_equals_the_returned_results(results, run_dir):
    assert json.loads((run_dir / "results.json").read_text()) == results
    assert not list(run_dir.glob(".results*"))


def test_evaluation_repeats_exactly(results, run_dir, tmp_path):
    again = evaluate(run_dir / "checkpoints" / "last.pth", device="cpu", output=tmp_path / "deep" / "r.json")
    assert (tmp_path / "deep" / "r.json").is_file()
    for key in ("linear_probe", "knn", "rank", "cka", "config_digest"):
        assert again[key] == results[key]


def test_only_trained_rows_depend_on_the_weights(results, run_dir, tmp_path):
    path = run_dir / "checkpoints" / "last.pth"
    state = read_checkpoint(path)
    generator = torch.Generator().manual_seed(0)
    for value in state["model_state_dict"].values():
        value += 0.3 * torch.randn(value.shape, generator=generator)
    changed = tmp_path / "changed.pth"
    save_checkpoint(changed, state)
    other = evaluate(changed, device="cpu", output=tmp_path / "r.json")
    assert other["rank"]["trained"] != results["rank"]["trained"]
    for kind in ("linear_probe", "knn"):
        for name in ("untrained", "pixels", "pca"):
            assert other[kind][name] == results[kind][name]
    assert other["rank"]["untrained"] == results["rank"]["untrained"]


def test_a_single_part_can_be_evaluated(run_dir, tmp_path):
    part = evaluate(run_dir, eval_type="knn", k_values=[3, 7], levels=[1], device="cpu", output=tmp_path / "r.json")
    assert "linear_probe" not in part
    assert part["knn"]["k"] == 7
    assert list(part["knn"]["by_k"]) == ["3", "7"]
    assert [entry["level"] for entry in part["knn"]["levels"]] == [1]
    assert [entry["level"] for entry in part["rank"]["levels"]] == [1]
    probe = evaluate(run_dir, eval_type="linear-probe", device="cpu", output=tmp_path / "r.json")
    assert "knn" not in probe
    assert "trained" in probe["linear_probe"]


def test_another_data_set_is_converted_and_named(run_dir):
    kept = (run_dir / "results.json").read_bytes() if (run_dir / "results.json").exists() else None
    other = evaluate(run_dir, dataset="digits", device="cpu", eval_type="knn")
    assert other["dataset"] == "digits"
    assert other["classes"] == 10
    assert (run_dir / "results_digits.json").is_file()
    assert kept is None or (run_dir / "results.json").read_bytes() == kept
    # An easy task: even these few steps give an accuracy above chance.
    assert other["knn"]["pixels"] > 0.5


def folder_of_pictures(root, count: int, classes: tuple[str, ...]) -> None:
    generator = np.random.default_rng(0)
    for i in range(count):
        place = root / classes[i % len(classes)] if classes else root
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (18, 22, 3), dtype=np.uint8)).save(place / f"{i:03d}.png")


@pytest.mark.parametrize("classes", [(), ("only", "other")])
def test_parts_that_need_labels_are_skipped_with_a_message(run_dir, tmp_path, caplog, classes):
    folder_of_pictures(tmp_path / "pictures", 40, classes)
    (tmp_path / "classes.txt").write_text("only\n")
    with caplog.at_level(logging.WARNING, "hjepa"):
        results = evaluate(
            run_dir,
            dataset="folder",
            data_path=tmp_path / "pictures",
            device="cpu",
            output=tmp_path / "r.json",
            overrides={"data.classes_file": str(tmp_path / "classes.txt")} if classes else {},
        )
    reason = "images of one class only" if classes else "no labels"
    assert results["linear_probe"] == results["knn"] == {"skipped": reason}
    assert results["rank"]["trained"] >= 1
    assert results["chance"] is None
    assert f"linear probe skipped: {reason}" in caplog.text
    assert f"k-NN skipped: {reason}" in caplog.text


def test_k_larger_than_the_number_of_images_is_reduced_with_a_message(run_dir, tmp_path, caplog):
    folder_of_pictures(tmp_path / "pictures", 12, ("a", "b"))
    with caplog.at_level(logging.WARNING, "hjepa"):
        results = evaluate(
            run_dir,
            dataset="folder",
            data_path=tmp_path / "pictures",
            device="cpu",
            output=tmp_path / "r.json",
            overrides=["data.test_fraction=0.5"],
        )
    assert results["train_images"] == 5  # of twelve, six are held out for testing and one for validation
    assert results["knn"]["k"] == 5
    assert "only 5 training images" in caplog.text


def test_one_image_per_class_is_too_few_for_a_probe(run_dir, tmp_path):
    folder_of_pictures(tmp_path / "pictures", 8, ("a", "b", "c", "d"))
    results = evaluate(
        run_dir,
        dataset="folder",
        data_path=tmp_path / "pictures",
        device="cpu",
        output=tmp_path / "r.json",
        overrides={"data.test_fraction": 0.5, "evaluation.train_images": 10},
    )
    assert results["linear_probe"] == {"skipped": "no class with two training images"}
    assert "trained" in results["knn"]


def test_images_from_another_folder_are_another_data_set(run_dir, tmp_path):
    for name in ("first", "second"):
        folder_of_pictures(tmp_path / name, 24, ("a", "b"))
    evaluate(run_dir, dataset="folder", data_path=tmp_path / "first", device="cpu", eval_type="knn", k_values=[1])
    assert (run_dir / "results_folder.json").is_file()


def test_limits_come_from_the_configuration(run_dir, tmp_path):
    results = evaluate(
        run_dir,
        device="cpu",
        eval_type="knn",
        k_values=[1],
        output=tmp_path / "r.json",
        overrides=["evaluation.train_images=50", "evaluation.test_images=30"],
    )
    assert (results["train_images"], results["test_images"]) == (50, 30)


def test_one_level_is_all_levels(flat_run_dir):
    results = evaluate(flat_run_dir, device="cpu", k_values=[5])
    for kind in ("linear_probe", "knn"):
        (level,) = results[kind]["levels"]
        assert level == {
            "level": 0,
            "trained": results[kind]["trained"],
            "untrained": results[kind]["untrained"],
        }
    assert results["cka"] == [[pytest.approx(1)]]


def test_a_diverged_checkpoint_is_a_one_line_error(run_dir, tmp_path):
    state = read_checkpoint(run_dir / "checkpoints" / "last.pth")
    for value in state["model_state_dict"].values():
        value.fill_(torch.nan)
    save_checkpoint(tmp_path / "nan.pth", state)
    with pytest.raises(UserError, match=r"^.*nan\.pth: features are NaN .*earlier checkpoint$"):
        evaluate(tmp_path / "nan.pth", device="cpu")


def test_results_of_a_checkpoint_without_a_run_folder_are_written_beside_it(run_dir, tmp_path):
    state = read_checkpoint(run_dir / "checkpoints" / "last.pth")
    state["run_dir"] = str(tmp_path / "gone")
    save_checkpoint(tmp_path / "moved.pth", state)
    assert load_run(tmp_path / "moved.pth", device="cpu").run_dir is None
    evaluate(tmp_path / "moved.pth", device="cpu", eval_type="knn", k_values=[1])
    assert (tmp_path / "results.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_type": "linear_prob"}, "eval_type: unknown value 'linear_prob'; did you mean linear_probe?"),
        ({"eval_type": "clustering"}, "use linear_probe, knn, "),
        ({"eval_type": ()}, "eval_type: nothing given"),
        ({"k_values": [0]}, "k_values: invalid number of neighbours 0"),
        ({"k_values": []}, "k_values: no number"),
        ({"k_values": [81]}, "k_values: 81 exceeds the number of training images; use at most 80"),
        ({"levels": [2]}, "hierarchy_levels: 2 is out of range for a model with 2 level(s); use 0 to 1"),
        ({"levels": [-1]}, "hierarchy_levels: -1 is out of range"),
        ({"dataset": "cifar"}, "data.dataset: invalid value 'cifar'"),
        ({"dataset": "folder", "data_path": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"batch_size": 0}, "data.batch_size: invalid value 0"),
        ({"device": "tpu"}, "device: unknown device 'tpu'"),
        ({"overrides": ["model.depth=3"]}, "model.depth: cannot be changed in an evaluation"),
        ({"overrides": ["data.subst=3"]}, "did you mean data.subset?"),
        ({"overrides": ["data.subset"]}, "not an override"),
        ({"overrides": ["data.exclude=[x]"]}, "data.exclude: changes which images are held out"),
    ],
)
def test_user_errors_are_one_line_each(run_dir, tmp_path, arguments, message):
    with pytest.raises(UserError) as error:
        evaluate(run_dir, **{"device": "cpu", "output": tmp_path / "r.json", **arguments})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.json").exists()


def test_output_that_cannot_be_written_is_a_one_line_error(run_dir, tmp_path):
    with pytest.raises(UserError, match="is a folder; give a file"):
        evaluate(run_dir, device="cpu", output=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        evaluate(run_dir, device="cpu", eval_type="knn", k_values=[1], output=tmp_path / "file" / "results.json")


def test_a_missing_checkpoint_is_a_one_line_error(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        evaluate(tmp_path / "nothing.pth")


def test_a_moved_run_folder_can_be_evaluated(run_dir, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run_dir, moved, ignore=shutil.ignore_patterns("results*"))
    evaluate(moved, device="cpu", eval_type="knn", k_values=[1])
    assert (moved / "results.json").is_file()
