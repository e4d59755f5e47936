"""Early stopping: it ends a run for the reason it gives, keeps the best checkpoint, and can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Run, tiny_config

import hjepa
from hjepa.config.training import EarlyStoppingConfig
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.runs.records import read_records
from hjepa.training.early_stopping import EarlyStopping

RED = {"health.cosine": [100.0, 100.0], "health.chance": [100.0, 100.0]}
ON_RED = {**RED, "training.epochs": 5, "training.early_stopping.monitor": ["health"]}


def follow(stopping: EarlyStopping, *accuracies: float | None, light: str = "green") -> list[bool]:
    """What it says to evaluations at the end of epochs 1, 2, …"""
    return [
        stopping.see({"step": 10 * epoch, "epoch": float(epoch), "health": light} | ({} if a is None else {"knn": a}))
        for epoch, a in enumerate(accuracies, start=1)
    ]


def stopping(**keys: Any) -> EarlyStopping:
    return EarlyStopping(EarlyStoppingConfig(**{"monitor": ["knn"], "patience": 2, **keys}))


def test_it_stops_once_knn_has_no_new_best_for_as_long_as_patience_says() -> None:
    rule = stopping()
    assert follow(rule, 0.2, 0.3, 0.29, 0.31, 0.31, 0.30) == [False] * 5 + [True]
    assert rule.reason == "online k-NN has not risen above 31.0% (step 40) in 2 evaluations"


def test_a_rise_below_min_delta_is_no_new_best() -> None:
    assert follow(stopping(min_delta=0.05), 0.2, 0.21, 0.22) == [False, False, True]
    # Measured from the best that counted, so that many small rises add up.
    assert follow(stopping(min_delta=0.05), 0.2, 0.23, 0.26, 0.27) == [False] * 4


def test_evaluations_before_the_start_are_not_counted() -> None:
    assert follow(stopping(start_epoch=3), 0.5, 0.4, 0.2, 0.2, 0.2) == [False] * 4 + [True]


def test_only_red_in_a_row_counts_and_only_what_is_monitored() -> None:
    rule = stopping(monitor=["health"])
    for light, stops in (("red", False), ("amber", False), ("red", False), ("red", True)):
        assert rule.see({"step": 1, "epoch": 1.0, "health": light, "knn": 0.1}) is stops
    assert not any(follow(stopping(), 0.1, 0.2, 0.3, light="red"))
    assert not any(follow(stopping(monitor=[]), 0.3, 0.2, 0.1, 0.1, light="red"))


def test_without_labels_knn_stops_nothing_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert not any(follow(stopping(), None, None, None, None))
    assert caplog.text.count("knn needs labels") == 1


def test_a_stopped_run_says_why_keeps_its_best_and_can_be_resumed(run: Run, tmp_path: Path) -> None:
    keys = {**ON_RED, "training.early_stopping.patience": 2}
    seen = run(keys, folder=tmp_path / "run")
    assert (seen.outcome.step, seen.outcome.interrupted, seen.outcome.completed) == (12, False, False)
    assert seen.outcome.stopped_early == "the health light was red in 2 evaluations in a row"
    assert "stopped early at step 12 of 30: the health light was red in 2 evaluations in a row" in seen.log
    # The learning rate is that of a run of five epochs, of which two are done.
    assert "of its peak, and features usually gain most while it decays" in seen.log
    lines = [json.loads(line) for line in (seen.folder / "metrics.jsonl").read_text().splitlines()]
    (stop,) = (line for line in lines if line["kind"] == "early_stop")
    assert (stop["step"], stop["last_step"], stop["reason"]) == (12, 30, seen.outcome.stopped_early)
    assert stop["lr_over_peak"] == pytest.approx(seen.records[-1]["lr"] / 1e-3)
    best = max(seen.evals, key=lambda e: e["knn"])
    assert read_checkpoint(seen.folder / "checkpoints" / "best_model.pth")["step"] == best["step"]
    assert read_records(seen.folder / "metrics.jsonl").early_stop == stop
    # Its patience begins anew: two more evaluations.
    again = run(keys, folder=tmp_path / "run", resume="auto")
    assert again.outcome.step == 24
    whole = run({**keys, "training.early_stopping.monitor": []}, folder=tmp_path / "run", resume="auto")
    assert whole.outcome.completed
    # It went on, so that the records no longer count as those of a stopped run.
    assert read_records(seen.folder / "metrics.jsonl").early_stop is None


def test_a_run_resumed_before_the_stop_stops_at_the_same_step(run: Run, tmp_path: Path) -> None:
    keys = {**ON_RED, "training.early_stopping.patience": 3}
    run({**keys, "training.max_steps": 9}, folder=tmp_path / "parts")
    assert run(keys, folder=tmp_path / "parts", resume="auto").outcome.step == run(keys).outcome.step == 18


def test_the_best_checkpoint_of_a_stopped_run_is_evaluated(tmp_path: Path) -> None:
    keys = {**ON_RED, "training.early_stopping.patience": 2, "evaluation.final": True}
    result = hjepa.train(tiny_config(keys), output_dir=tmp_path / "run", console=False)
    assert result.stopped_early is not None
    assert Path(result.results["checkpoint"]).name == "best_model.pth"
    assert result.results["step"] <= 12
