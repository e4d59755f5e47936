"""One evaluation on several data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from tests.evaluation.test_evaluate_run import folder_of_pictures
from typer.testing import CliRunner

from hjepa.cli.evaluate import evaluate as command
from hjepa.errors import UserError
from hjepa.evaluation.transfer import pair


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command)
    return app


def test_data_sets_and_paths_are_paired_in_order() -> None:
    assert pair([], []) == [(None, None)]
    assert pair([], ["a"]) == [(None, "a")]
    assert pair(["digits", "folder"], ["-", "b"]) == [("digits", None), ("folder", "b")]
    assert pair(["digits", "shapes"], []) == [("digits", None), ("shapes", None)]
    with pytest.raises(UserError, match=r"data_path: 1 for 2 data sets; give one for each"):
        pair(["digits", "folder"], ["b"])


def test_every_data_set_has_its_file_and_one_table_closes_the_output(
    app: typer.Typer, run_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("results*"))
    for name in ("first", "second"):
        folder_of_pictures(tmp_path / name, 40, ("a", "b"))
    arguments = ["--checkpoint", str(run), "--device", "cpu", "--eval-type", "knn", "--k-values", "1"]
    sets = ["--dataset", "digits", "--data-path", "-"]
    for name in ("first", "second"):
        sets += ["--dataset", "folder", "--data-path", str(tmp_path / name)]
    outcome = CliRunner().invoke(app, [*arguments, *sets])
    assert outcome.exit_code == 0, outcome.output
    assert {f.name for f in run.glob("results*")} == {
        "results_digits.json",
        "results_folder.json",
        "results_folder_2.json",
    }
    last = outcome.stdout.split("transfer: ")[1]
    header, trained = last.splitlines()[1], last.splitlines()[2]
    assert "digits k-NN-1" in header
    assert "folder 3 k-NN-1" in header
    for name in ("digits", "folder", "folder_2"):
        written = json.loads((run / f"results_{name}.json").read_text())
        assert f"{100 * written['knn']['trained']:.1f}" in trained
    (tmp_path / "out").write_text("")
    outcome = CliRunner().invoke(app, [*arguments, *sets, "--output", str(tmp_path / "out")])
    assert isinstance(outcome.exception, UserError)
    assert "give a folder" in str(outcome.exception)
