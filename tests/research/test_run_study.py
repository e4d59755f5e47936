"""Whole studies of tiny runs: budgets, tables, going on, and what must not be mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TINY

from hjepa.errors import UserError
from hjepa.research import StudyOutcome, run_study
from hjepa.research.summary import format_study

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


def test_means_and_differences_are_those_of_the_runs(done: StudyOutcome) -> None:
    assert done.completed
    values: dict[str, list[float]] = {"one": [], "two": []}
    for name, found in values.items():
        for seed in (0, 1):
            scores = json.loads((done.folder / "cells" / name / f"seed_{seed}" / "results.json").read_text())
            found.append(scores["linear_probe"]["trained_depths"])
    for name, found in values.items():
        assert cell(done, name)["mean"]["linear_probe/depths"]["mean"] == pytest.approx(sum(found) / 2)
    difference = cell(done, "two")["difference"]["linear_probe/depths"]
    expected = sum(two - one for one, two in zip(values["one"], values["two"], strict=True)) / 2
    assert difference["mean"] == pytest.approx(expected)
    assert difference["low"] <= expected <= difference["high"]
    assert cell(done, "one")["difference"] == {}


def test_a_model_with_levels_at_the_depths_reads_the_same_either_way(done: StudyOutcome) -> None:
    for run in cell(done, "two")["runs"]:
        assert run["linear_probe/depths"] == run["linear_probe/all"]
        assert run["knn/depths"] == run["knn/all"]
    # One level read at two depths is more than one level.
    scores = json.loads((done.folder / "cells" / "one" / "seed_0" / "results.json").read_text())
    assert scores["depths"] == [1, 2]
    assert "trained_depths" in scores["knn"]


def test_runs_are_found_from_the_study_s_folder(done: StudyOutcome) -> None:
    places = [Path(run["folder"]) for name in ("one", "two") for run in cell(done, name)["runs"]]
    assert places
    assert not any(place.is_absolute() for place in places)
    assert all((done.folder / place / "results.json").is_file() for place in places)


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


def test_what_is_done_is_not_done_again(done: StudyOutcome) -> None:
    files = sorted(done.folder.rglob("last.pth"))
    before = [f.stat().st_mtime_ns for f in files]
    again = run_study(STUDY, output_dir=done.folder, console=False)
    assert [f.stat().st_mtime_ns for f in files] == before
    assert again.results["cells"] == done.results["cells"]


def test_a_study_goes_on_with_more_seeds(done: StudyOutcome) -> None:
    more = run_study(STUDY, output_dir=done.folder, seeds=[0, 1, 2], cells=["one"], console=False)
    assert cell(more, "one")["mean"]["linear_probe/all"]["count"] == 3


def test_cells_are_run_in_the_order_asked_for() -> None:
    plan = run_study(STUDY, cells=["two", "one", "two"], dry_run=True)
    assert [row["name"] for row in plan.results["cells"]] == ["two", "one"]


def test_other_settings_in_the_same_folder_are_refused(done: StudyOutcome) -> None:
    with pytest.raises(UserError, match=r"training\.lr 0\.001 -> 0\.002.*--output-dir"):
        run_study(STUDY, output_dir=done.folder, overrides={"training.lr": 2e-3}, console=False)


def test_unequal_images_are_refused_and_equal_flop_is_reached() -> None:
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
    warmup = [row["config"]["training"]["warmup_epochs"] / row["config"]["training"]["epochs"] for row in (one, two)]
    assert warmup[0] == pytest.approx(warmup[1])


def test_a_cell_that_cannot_be_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    wrong = {**STUDY, "cells": {"one": {}, "odd": {"model.num_heads": 5}}}
    with pytest.raises(UserError, match=r"cell 'odd': model\.num_heads: 5"):
        run_study(wrong, output_dir=tmp_path / "s", console=False)
    assert not (tmp_path / "s").exists()
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


def test_cells_alone_without_the_reference_have_a_table_and_a_plot(done: StudyOutcome) -> None:
    (done.folder / "results.png").unlink()
    alone = run_study(STUDY, output_dir=done.folder, cells=["two"], console=False)
    assert alone.results["controls"] is None
    assert (done.folder / "results.png").read_bytes().startswith(b"\x89PNG")
