"""Whole studies of tiny runs: budgets, tables, resuming, and refusing runs with other settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import TINY

from hjepa.errors import UserError
from hjepa.research import StudyOutcome, run_study
from hjepa.research.summary import format_study
from hjepa.training import precision, run_training

BASE: dict[str, Any] = {
    **TINY,
    "evaluation": {**TINY["evaluation"], "train_images": 96, "test_images": 60},
    "training": {**TINY["training"], "epochs": 1},
}
STUDY: dict[str, Any] = {
    "title": "One level and two",
    "question": "Does a second level pay?",
    "base": BASE,
    "seeds": [0, 1],
    "depths": [1, 2],
    "reference": "one",
    "cells": {"one": {"model.num_hierarchies": 1}, "two": {"model.num_hierarchies": 2}},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> StudyOutcome:
    return run_study(STUDY, output_dir=tmp_path_factory.mktemp("study"), console=False)


def cell(outcome: StudyOutcome, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in outcome.results["cells"] if row["name"] == name)
    return found


def test_means_and_differences_are_computed_from_the_runs(done: StudyOutcome) -> None:
    assert done.completed
    values: dict[str, list[float]] = {"one": [], "two": []}
    for name, found in values.items():
        for seed in (0, 1):
            scores = json.loads((done.folder / "cells" / name / f"seed_{seed}" / "results_validation.json").read_text())
            found.append(scores["linear_probe"]["trained_depths"])
    for name, found in values.items():
        assert cell(done, name)["mean"]["linear_probe/depths"]["mean"] == pytest.approx(sum(found) / 2)
    difference = cell(done, "two")["difference"]["linear_probe/depths"]
    expected = sum(two - one for one, two in zip(values["one"], values["two"], strict=True)) / 2
    assert difference["mean"] == pytest.approx(expected)
    assert difference["low"] <= expected <= difference["high"]
    assert cell(done, "one")["difference"] == {}


def test_depths_that_are_levels_give_the_scores_of_the_levels(done: StudyOutcome) -> None:
    for run in cell(done, "two")["runs"]:
        assert run["linear_probe/depths"] == run["linear_probe/all"]
        assert run["knn/depths"] == run["knn/all"]
    # One level, but evaluated at two depths.
    scores = json.loads((done.folder / "cells" / "one" / "seed_0" / "results_validation.json").read_text())
    assert scores["depths"] == [1, 2]
    assert "trained_depths" in scores["knn"]


def test_runs_are_found_from_the_study_s_folder(done: StudyOutcome) -> None:
    places = [Path(run["folder"]) for name in ("one", "two") for run in cell(done, name)["runs"]]
    assert places
    assert not any(place.is_absolute() for place in places)
    assert all((done.folder / place / "results_validation.json").is_file() for place in places)


def test_the_budget_and_every_configuration_are_stated(done: StudyOutcome) -> None:
    for name, levels in (("one", 1), ("two", 2)):
        row = cell(done, name)
        assert row["images"] == 96
        assert row["flop"] == pytest.approx(96 * row["flop_per_image"])
        assert row["config"]["model"]["num_hierarchies"] == levels
    assert cell(done, "two")["flop"] > cell(done, "one")["flop"]
    text = format_study(done.results)
    assert "raw pixels" in text
    assert "untrained reference" in text
    assert (done.folder / "results.md").read_text().startswith("# One level and two")
    assert (done.folder / "results.png").read_bytes().startswith(b"\x89PNG")
    assert (done.folder / "study.yaml").is_file()


def test_finished_runs_are_not_repeated(done: StudyOutcome) -> None:
    files = sorted(done.folder.rglob("last.pth"))
    before = [f.stat().st_mtime_ns for f in files]
    again = run_study(STUDY, output_dir=done.folder, console=False)
    assert [f.stat().st_mtime_ns for f in files] == before
    assert again.results["cells"] == done.results["cells"]


def test_a_study_can_be_extended_with_more_seeds(done: StudyOutcome) -> None:
    more = run_study(STUDY, output_dir=done.folder, seeds=[2], cells=["one"], console=False)
    assert cell(more, "one")["mean"]["linear_probe/all"]["count"] == 3
    assert [run["seed"] for run in cell(more, "one")["runs"]] == [0, 1, 2]
    assert more.results["seeds"] == [0, 1, 2]
    # The other cell was not requested; its runs and pairs stay in the table.
    assert cell(more, "two")["difference"] == cell(done, "two")["difference"]
    assert more.results["controls"] == done.results["controls"]
    assert yaml.safe_load((done.folder / "study.yaml").read_text())["seeds"] == [0, 1, 2]


def test_concurrent_calls_write_one_table(done: StudyOutcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hjepa.research import runs

    def and_meanwhile(*arguments: Any, **keys: Any) -> Any:
        # Another call finishes the same run while this one trains.
        shutil.copytree(done.folder / "cells" / "one" / "seed_0", tmp_path / "s" / "cells" / "one" / "seed_0")
        return run_training(*arguments, **keys)

    monkeypatch.setattr(runs, "run_training", and_meanwhile)
    found = run_study(STUDY, output_dir=tmp_path / "s", cells=["two"], seeds=[0], console=False)
    assert cell(found, "one")["runs"] == cell(done, "one")["runs"][:1]
    assert set(cell(found, "two")["difference"]) >= {"linear_probe/all", "linear_probe/depths"}


def test_a_damaged_result_is_evaluated_again(done: StudyOutcome) -> None:
    file = done.folder / "cells" / "two" / "seed_1" / "results_validation.json"
    whole = json.loads(file.read_text())
    weights = file.with_name("checkpoints") / "last.pth"
    before = weights.stat().st_mtime_ns
    file.write_text(file.read_text()[:100])
    again = run_study(STUDY, output_dir=done.folder, console=False)
    assert json.loads(file.read_text())["linear_probe"] == whole["linear_probe"]
    assert weights.stat().st_mtime_ns == before
    assert cell(again, "two")["mean"] == cell(done, "two")["mean"]


def test_another_data_set_in_the_same_study_folder_is_refused(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(40):
            pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    source = {**BASE, "data": {**BASE["data"], "dataset": "folder", "subset": None}}
    plain = {"title": "t", "base": source, "seeds": [0], "cells": {"one": {}}}
    first = {"output_dir": tmp_path / "s", "console": False}
    found = run_study(plain, **first, overrides={"data.data_path": str(tmp_path / "a")})
    # Missing probe scores, without labels, must not cause another evaluation.
    results = tmp_path / "s" / "cells" / "one" / "seed_0" / "results_validation.json"
    before = results.stat().st_mtime_ns
    run_study(plain, **first, overrides={"data.data_path": str(tmp_path / "a")})
    assert results.stat().st_mtime_ns == before
    assert "rank" in cell(found, "one")["mean"]
    with pytest.raises(UserError, match=r"data\.data_path .*a -> .*b.*--output-dir"):
        run_study(plain, **first, overrides={"data.data_path": str(tmp_path / "b")})


def test_a_study_can_be_run_on_another_base_configuration(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**BASE, "training": {**BASE["training"], "lr": 3e-3}}))
    plan = run_study(STUDY, base=other, dry_run=True)
    assert [row["config"]["training"]["lr"] for row in plan.results["cells"]] == [3e-3, 3e-3]
    assert [row["config"]["model"]["num_hierarchies"] for row in plan.results["cells"]] == [1, 2]
    with pytest.raises(UserError, match="no such configuration file or preset"):
        run_study(STUDY, base="quikstart2", dry_run=True)


@pytest.mark.parametrize("choice", [True, False])
def test_automatic_precision_is_the_same_for_all_runs_of_a_study(
    choice: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = {"output_dir": tmp_path / "s", "console": False, "overrides": {"training.use_amp": "auto"}}
    monkeypatch.setattr(precision, "mixed_precision_pays", lambda *_: (choice, "so it says"))
    found = run_study({**STUDY, "seeds": [0]}, **auto)
    assert {row["config"]["training"]["use_amp"] for row in found.results["cells"]} == {choice}
    # The study keeps its first choice on a machine that would choose differently.
    monkeypatch.setattr(precision, "mixed_precision_pays", lambda *_: (not choice, "so it says"))
    more = run_study({**STUDY, "seeds": [0, 1]}, **auto)
    written = [yaml.safe_load(file.read_text()) for file in sorted((tmp_path / "s").glob("cells/*/*/config.yaml"))]
    assert [tree["training"]["use_amp"] for tree in written] == 4 * [choice]
    assert [len(row["runs"]) for row in more.results["cells"]] == [2, 2]


def test_cells_run_in_the_requested_order() -> None:
    plan = run_study(STUDY, cells=["two", "one", "two"], dry_run=True)
    assert [row["name"] for row in plan.results["cells"]] == ["two", "one"]


def test_other_settings_in_the_same_folder_are_refused(done: StudyOutcome) -> None:
    with pytest.raises(UserError, match=r"training\.lr 0\.001 -> 0\.002.*--output-dir"):
        run_study(STUDY, output_dir=done.folder, overrides={"training.lr": 2e-3}, console=False)


def test_unequal_budgets_in_images_are_refused_and_equal_flop_budgets_are_met() -> None:
    longer = {**STUDY, "cells": {"one": {}, "long": {"training.epochs": 2}}, "reference": "one"}
    with pytest.raises(UserError, match=r"'long' sees 192 images and 'one' 96.*budget: flop"):
        run_study(longer, dry_run=True)
    wide = {
        **STUDY,
        "base": {**BASE, "training": {**BASE["training"], "epochs": 40}},
        "budget": "flop",
        "cells": {"one": {}, "wide": {"model.embed_dim": 64, "model.num_heads": 2}},
    }
    plan = run_study(wide, dry_run=True)
    one, two = cell(plan, "one"), cell(plan, "wide")
    assert two["flop_per_image"] > 2 * one["flop_per_image"]
    assert two["flop"] == pytest.approx(one["flop"], rel=0.02)
    assert two["images"] < one["images"]
    short = run_study(wide, overrides={"training.max_steps": 40}, dry_run=True)
    one, two = cell(short, "one"), cell(short, "wide")
    assert one["images"] == 40 * 16
    # Equal up to a whole number of steps.
    assert abs(two["flop"] - one["flop"]) <= 16 * two["flop_per_image"]
    one, two = cell(plan, "one"), cell(plan, "wide")
    warmup = [row["config"]["training"]["warmup_epochs"] / row["config"]["training"]["epochs"] for row in (one, two)]
    assert warmup[0] == pytest.approx(warmup[1])


def test_an_invalid_cell_is_named_before_training_starts(tmp_path: Path) -> None:
    wrong = {**STUDY, "cells": {"one": {}, "odd": {"model.num_heads": 5}}}
    with pytest.raises(UserError, match=r"cell 'odd': model\.num_heads: 5"):
        run_study(wrong, output_dir=tmp_path / "s", console=False)
    assert not (tmp_path / "s").exists()
    for depth in (0, 9):
        with pytest.raises(
            UserError, match=rf"cell 'one': depths: {depth} is out of range for an encoder with 2 blocks"
        ):
            run_study({**STUDY, "depths": [depth]}, dry_run=True)
    with pytest.raises(UserError, match="'three' is not a cell"):
        run_study(STUDY, output_dir=tmp_path / "s", cells=["three"], console=False)


def test_a_cell_that_diverges_is_a_result(tmp_path: Path) -> None:
    mad = {
        **STUDY,
        "seeds": [0],
        "depths": [],
        "base": {**BASE, "data": {**BASE["data"], "subset": 480}},
        "cells": {"one": {}, "mad": {"training.lr": 1e30, "training.warmup_epochs": 0, "loss.type": "mse"}},
    }
    found = run_study(mad, output_dir=tmp_path / "s", console=False)
    assert not found.completed
    assert "failed" in cell(found, "mad")["runs"][0]
    assert "(1 failed)" in format_study(found.results)
    assert "linear_probe/all" in cell(found, "one")["mean"]


def test_cells_without_the_reference_have_a_table_and_a_plot(done: StudyOutcome, tmp_path: Path) -> None:
    shutil.copytree(done.folder / "cells" / "two", tmp_path / "s" / "cells" / "two")
    alone = run_study(STUDY, output_dir=tmp_path / "s", cells=["two"], console=False)
    assert alone.results["controls"] is None
    assert (tmp_path / "s" / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one seed, evaluated on validation images."""
    folder = tmp_path_factory.mktemp("chosen") / "s"
    run_study({**STUDY, "seeds": [0]}, output_dir=folder, console=False)
    return folder


def test_cells_are_compared_on_validation_images_and_all_outputs_say_so(chosen: Path) -> None:
    results = json.loads((chosen / "results.json").read_text())
    assert results["split"] == "validation"
    assert results["data"]["images"] == 9  # a tenth of the training images
    assert {run["split"] for row in results["cells"] for run in row["runs"]} == {"validation"}
    table = (chosen / "results.md").read_text()
    assert "9 validation images" in table
    assert "Accuracies on validation in per cent" in table
    assert "validation images" in (chosen / "study.yaml").read_text().splitlines()[0]
    assert not list(chosen.rglob("final.*"))
    assert not list(chosen.rglob("seed_0/results.json"))


def test_test_images_are_read_once_and_written_to_a_separate_file(
    chosen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (chosen / "results.json").read_text()
    one = run_study({**STUDY, "seeds": [0]}, output_dir=chosen, cells=["one"], final=True, console=False)
    assert one.results["split"] == "test"
    assert one.results["data"]["images"] == 60
    assert "on test before" not in caplog.text
    assert json.loads((chosen / "results.json").read_text())["cells"] == json.loads(before)["cells"]
    files = {file: file.stat().st_mtime_ns for file in chosen.rglob("seed_0/results.json")}
    assert len(files) == 1
    both = run_study({**STUDY, "seeds": [0]}, output_dir=chosen, final=True, console=False)
    assert "1 of 2 runs were evaluated on test before; their results are kept" in caplog.text
    assert all(file.stat().st_mtime_ns == written for file, written in files.items())
    assert cell(both, "one") == cell(one, "one")
    assert cell(both, "two")["difference"]
    assert json.loads((chosen / "final.json").read_text()) == both.results
    deeper = run_study(
        {**STUDY, "seeds": [0], "depths": [2]}, output_dir=chosen, cells=["one"], final=True, console=False
    )
    assert deeper.results["depths"] == [2]
    assert "evaluating on test again: the earlier results are for other depths" in caplog.text
    table = (chosen / "final.md").read_text()
    assert "60 test images" in table
    assert "Accuracies on test in per cent" in table
    assert (chosen / "final.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_without_validation_images_is_refused_before_training_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.validation_fraction: a study needs validation images") as error:
        run_study(STUDY, output_dir=tmp_path / "s", overrides={"data.validation_fraction": 0}, console=False)
    # At most one line per cell, and no files.
    assert all("data.validation_fraction" in line for line in str(error.value).splitlines())
    assert not (tmp_path / "s").exists()


def test_results_without_a_stored_split_are_labelled_as_test() -> None:
    from hjepa.research.summary import headline, markdown

    kept = json.loads((Path(__file__).parents[2] / "docs/results/recipe/screen_12.json").read_text())
    assert "test images" in headline(kept)
    assert "Accuracies on test in per cent" in markdown(kept)


def test_validation_score_of_a_run(chosen: Path, tmp_path: Path) -> None:
    from hjepa.research import validation_score

    folder = tmp_path / "run"
    shutil.copytree(chosen / "cells" / "two" / "seed_0", folder)
    for file in folder.glob("results*.json"):
        file.unlink()
    score = validation_score(folder, device="cpu")
    written = json.loads((folder / "results_validation.json").read_text())
    assert score == written["linear_probe"]["trained"]
    assert not (folder / "results.json").exists()
    level = validation_score(folder, reading="knn", level=1, device="cpu")
    assert level == json.loads((folder / "results_validation.json").read_text())["knn"]["levels"][0]["trained"]
