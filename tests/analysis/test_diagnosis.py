"""The state of a run is named from its files, without being told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.conftest import Folder, evaluation
from tests.health.synthetic_records import train_record

from hjepa.analysis.convergence import convergence
from hjepa.analysis.diagnosis import diagnose
from hjepa.analysis.history import read_history
from hjepa.analysis.recommend import recommend

STEPS = range(500, 20_001, 500)
CHECKS = range(2000, 20_001, 2000)
EXPLODED = {"loss": 40.0, "loss__level_0": 20.0, "loss__level_1": 20.0}


def state(root: Path) -> str:
    return diagnose(read_history(root)).state


@pytest.mark.parametrize("name", ["collapsed", "stuck", "diverging"])
def test_real_runs_that_go_wrong_are_named(real_runs: dict[str, Path], name: str) -> None:
    found = diagnose(read_history(real_runs[name]))
    assert found.state == name, found.evidence


def test_a_healthy_run_is_named_healthy(folder: Folder) -> None:
    found = diagnose(read_history(folder()))
    assert found.state == "healthy", found.evidence
    assert any("chance" in text for text in found.evidence)


def falling(step: int, start: float, end: float) -> float:
    return start + (end - start) * step / 20_000


def cases() -> dict[str, tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None]]:
    """Records of runs by the state they are in."""
    constant = {"std": 0.003, "cosine": 0.9999, "rank": 1.05, "lidar": 1.0}
    alike = [train_record(s, chance__level_0=0.3 if s < 2000 else 0.001, loss__level_0=0.001) for s in STEPS]
    return {
        "collapsed": (alike, [evaluation(s, **constant) for s in CHECKS]),
        "position_shortcut": (None, [evaluation(s, position=0.97, std=0.05, cosine=0.99, rank=3.0) for s in CHECKS]),
        "dimension_collapsed": (None, [evaluation(s, rank=3.0, lidar=2.5) for s in CHECKS]),
        "late_collapse": (
            None,
            [evaluation(s, **({"knn": 0.5} if s < 15_000 else {"knn": 0.2, "rank": 10.0})) for s in CHECKS],
        ),
        "diverging": ([train_record(s, **(EXPLODED if s >= 3000 else {})) for s in STEPS], None),
        "stuck": (
            [train_record(s, loss__level_0=0.45, loss__level_1=0.4) for s in STEPS],
            [evaluation(s, std=0.6, rank=8.01, lidar=6.0, knn=0.2) for s in CHECKS],
        ),
        "unclear": ([train_record(s) for s in (500, 1000)], []),
    }


@pytest.mark.parametrize("name", cases())
def test_states_are_told_apart(folder: Folder, name: str) -> None:
    train, evaluations = cases()[name]
    found = diagnose(read_history(folder(train, evaluations)))
    assert found.state == name, found.evidence
    assert found.evidence


def test_a_rank_that_training_has_not_raised_is_named_once_it_had_time(folder: Folder) -> None:
    flat = {"rank": 8.2, "lidar": 4.0}
    assert state(folder(None, [evaluation(s, **flat) for s in CHECKS])) == "dimension_collapsed"
    early = [s for s in CHECKS if s <= 4000]
    train = [train_record(s) for s in STEPS if s <= 4000]
    assert state(folder(train, [evaluation(s, **flat) for s in early])) == "healthy"


def test_a_collapse_that_left_few_dimensions_is_no_mere_dimension_collapse(folder: Folder) -> None:
    sign = {
        "light": "red", "figure": "cosine", "where": "level 0", "value": 0.01, "limit": 0.05,
        "text": "the 1 - cosine between images at level 0 is 0.005",
    }  # fmt: skip
    few = {"rank": 3.0, "lidar": 2.0}
    first = evaluation(2000, std=0.02, cosine=0.995, rank=2.0, signs=[sign])
    rest = [evaluation(s, **few) for s in CHECKS if s > 2000]
    found = diagnose(read_history(folder(None, [first, *rest])))
    assert found.state == "collapsed"
    assert found.evidence[0].startswith("at step 2000, ")
    recovered = [evaluation(s) for s in CHECKS if s > 2000]
    assert state(folder(None, [first, *recovered])) == "healthy"


def test_a_term_of_its_own_that_jumps_is_no_divergence_while_levels_are_predicted(folder: Folder) -> None:
    assert state(folder([train_record(s, loss=0.2 if s < 3000 else 40.0) for s in STEPS], None)) == "healthy"


def test_updates_that_are_skipped_mean_divergence_and_a_few_do_not(folder: Folder) -> None:
    assert state(folder([train_record(s, skipped=s // 10) for s in STEPS], None)) == "diverging"
    assert state(folder([train_record(s, skipped=3) for s in STEPS], None)) == "healthy"


def test_a_loss_that_is_not_a_number_is_named(folder: Folder) -> None:
    train = [train_record(s, loss=float("nan") if s > 10_000 else 0.2) for s in STEPS]
    assert state(folder(train, None)) == "diverging"


def test_a_run_without_records_says_so(folder: Folder) -> None:
    assert state(folder([], [], untrained=False)) == "no_records"


def command(root: Path) -> str:
    history = read_history(root)
    return recommend(history, diagnose(history), convergence(history)).command


def test_the_next_command_treats_the_cause(real_runs: dict[str, Path], folder: Folder) -> None:
    assert "model.ema.momentum=0.99" in command(real_runs["collapsed"])
    assert "training.lr=0.001" in command(real_runs["stuck"])
    assert "training.lr=0.001" in command(real_runs["diverging"])
    assert "model.position=rope" in command(folder(*cases()["position_shortcut"]))
    assert "loss.variance_loss_weight=0.15" in command(folder(*cases()["dimension_collapsed"]))


def test_the_next_command_of_a_healthy_run_depends_on_where_it_is(folder: Folder) -> None:
    rising = folder(None, [evaluation(s, knn=0.2 + s / 50_000) for s in CHECKS])
    assert "training.epochs=200" in command(rising)
    level = folder(None, [evaluation(s, knn=0.5) for s in CHECKS])
    assert command(level).startswith("hjepa evaluate")
    train = [train_record(s) for s in STEPS if s <= 10_000]
    half = folder(train, [evaluation(s) for s in CHECKS if s <= 10_000])
    assert command(half) == f"hjepa watch {half}"
    early = folder(
        train,
        [evaluation(s) for s in CHECKS if s <= 10_000],
        log="x WARNING stopped early at step 10000 of 20000: online k-NN has not risen (training.early_stopping)\n",
    )
    assert "training.epochs=50" in command(early)
    for file in half.iterdir():
        os.utime(file, (0, 0))
    assert command(half) == f"hjepa train --output-dir {half} --resume auto"
