"""`hjepa analyze`: figures of runs that are running, finished, stopped or old."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.analysis.conftest import Folder, evaluation
from tests.health.synthetic_records import train_record

from hjepa.analysis import analyze
from hjepa.analysis.analyze import analysis
from hjepa.analysis.history import find_run, read_history
from hjepa.config import load_config
from hjepa.errors import UserError


def test_a_real_run_is_analysed_into_three_files(real_runs: dict[str, Path], tmp_path: Path) -> None:
    result = analyze(real_runs["collapsed"], output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == result
    assert "NaN" not in (tmp_path / "out" / "analysis.json").read_text()
    page = (tmp_path / "out" / "analysis.md").read_text()
    assert "## Collapsed" in page
    assert result["recommendation"]["command"] in page
    assert Image.open(tmp_path / "out" / "analysis.png").size[0] > 1000
    shares = result["speed"]["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=0.05)
    assert all(0 <= share <= 1 for share in shares.values())
    assert shares["evaluation"] > 0
    assert result["health"]["light"] == "red"
    figures = {sign["figure"] for sign in result["health"]["signs"] if sign["now"]}
    assert "cosine" in figures
    assert result["status"]["state"] == "finished"


def test_the_recommended_command_can_be_run(real_runs: dict[str, Path]) -> None:
    for run in real_runs.values():
        words = analysis(read_history(run))["recommendation"]["command"].split()
        assert words[:3] == ["hjepa", "train", "--config"]
        load_config(words[3], [word for word in words[4:] if "=" in word])


def test_files_are_not_overwritten(folder: Folder, tmp_path: Path) -> None:
    run = folder()
    analyze(run)
    assert (run / "analysis.md").is_file()
    (run / "analysis.md").write_text("mine")
    with pytest.raises(UserError, match="--force"):
        analyze(run)
    assert (run / "analysis.md").read_text() == "mine"
    analyze(run, force=True)
    assert (run / "analysis.md").read_text() != "mine"


def test_convergence_tells_rising_from_level_k_nn(folder: Folder) -> None:
    steps = range(2000, 20_001, 2000)
    rising = analysis(read_history(folder(None, [evaluation(s, knn=0.2 + s / 50_000) for s in steps])))
    level = analysis(read_history(folder(None, [evaluation(s, knn=0.5) for s in steps])))
    assert rising["convergence"]["knn"]["rising"] is True
    assert rising["convergence"]["knn"]["gain"] > 0.05
    assert level["convergence"]["knn"]["rising"] is False
    assert level["convergence"]["knn"]["noise"] == pytest.approx(2 * (2 * 0.25 / 1000) ** 0.5)


def test_stability_finds_spikes_jumps_skips_and_restarts(folder: Folder) -> None:
    steps = range(500, 20_001, 500)
    train = [
        train_record(s, loss=0.9 if s == 8000 else 0.2, grad_norm=50.0 if s == 12_000 else 0.5, skipped=2 * (s > 9000))
        for s in steps
    ]
    log = "x INFO resuming from step 5000\nx INFO resuming from step 9000\n"
    stable = analysis(read_history(folder(train, log=log)))["stability"]
    assert [point["step"] for point in stable["loss_spikes"]] == [8000]
    assert [point["step"] for point in stable["gradient"]["jumps"]] == [12_000]
    assert stable["gradient"]["largest"] == 50.0
    assert stable["skipped"] == 2
    assert stable["resumed"] == [5000, 9000]


def test_a_term_that_rises_while_the_total_falls_is_shown(folder: Folder) -> None:
    steps = range(500, 20_001, 500)
    train = [
        {**train_record(s), "loss": 0.5 - s / 50_000, "loss/level_1": 0.05 + s / 100_000, "loss/level_0": 0.1}
        for s in steps
    ]
    terms = {term["name"]: term for term in analysis(read_history(folder(train)))["terms"]}
    assert terms["loss"]["rise"] == pytest.approx(1, abs=0.01)
    assert terms["loss/level_1"]["rise"] > 3
    assert terms["loss/level_1"]["over_chance"]
    signs = analysis(read_history(folder(train)))["health"]["signs"]
    assert ("rise", "loss/level_1") in {(sign["figure"], sign["where"]) for sign in signs}


def test_time_for_other_numbers_of_epochs_follows_from_the_time_of_one(folder: Folder) -> None:
    result = analysis(read_history(folder()))
    # 20,000 steps of 0.1 s, 200 steps to the epoch.
    assert result["speed"]["seconds_per_epoch"] == pytest.approx(20)
    times = {entry["epochs"]: entry["seconds"] for entry in result["projections"]}
    assert times[200] == pytest.approx(4000)
    assert result["speed"]["left"] is None


def test_an_old_run_says_what_is_missing(folder: Folder) -> None:
    evaluations = [
        {"kind": "eval", "step": s, "epoch": s / 200, "time": s * 0.1, "rank/level_0": 20.0, "rank": 20.0}
        for s in (4000, 20_000)
    ]
    result = analysis(read_history(folder(None, evaluations, untrained=False, log=None)))
    missing = " ".join(result["missing"])
    for word in ("untrained", "k-NN", "health light", "results.json", "training.log"):
        assert word in missing
    assert result["health"]["recorded"] is False
    assert result["health"]["light"] == "green"
    assert result["diagnosis"]["state"] == "healthy"


def test_a_folder_without_records_and_one_with_a_truncated_line(folder: Folder, tmp_path: Path) -> None:
    empty = folder([], [], untrained=False, log=None)
    assert analyze(empty)["diagnosis"]["state"] == "no_records"
    run = folder()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 20500, "lo')
    result = analyze(run)
    assert result["status"]["step"] == 20_000
    assert any("cannot be read" in text for text in result["missing"])


def test_running_and_stopped_runs_are_told_by_the_age_of_their_files(folder: Folder) -> None:
    train = [train_record(s) for s in range(500, 5001, 500)]
    run = folder(train, [])
    history = read_history(run)
    assert history.status() == "running"
    assert analysis(history)["speed"]["left"] > 0
    assert history.status(now=time.time() + 3600) == "stopped"
    for file in run.iterdir():
        os.utime(file, (0, 0))
    assert read_history(run).status() == "stopped"
    assert read_history(folder()).status() == "finished"


def test_a_run_is_found_by_its_checkpoint_and_a_packed_model_is_refused(real_runs: dict[str, Path]) -> None:
    run = real_runs["stuck"]
    assert find_run(run / "checkpoints" / "last.pth") == run
    for bad, words in (
        ("hjepa-tiny-cifar10", "no training records"),
        ("nowhere", "no such"),
        (str(run.parent), "config"),
    ):
        with pytest.raises(UserError, match=words):
            find_run(bad)
