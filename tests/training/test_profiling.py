"""`--profile`: a trace that Perfetto reads, a table, and the same weights as without."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import Run, run_tiny, tiny_config

from hjepa.cli.arguments import normalise
from hjepa.errors import UserError
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.training import run_training
from hjepa.training.profiling import WARM_UP


def test_it_writes_a_trace_and_a_table_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    outcome = run_training(tiny_config(), output_dir=tmp_path / "run", console=False, profile=3)
    (file,) = (tmp_path / "run" / "profile").iterdir()
    assert file.name == f"steps_{WARM_UP + 1}_to_{WARM_UP + 3}.json.gz"
    with gzip.open(file) as packed:
        events = json.load(packed)["traceEvents"]
    # Complete events with a start and a duration in microseconds are what the viewer draws.
    named = {e["name"] for e in events if e.get("ph") == "X" and e["dur"] >= 0 and e["ts"] >= 0}
    marks = {f"hjepa: {part}" for part in ("context_encoder", "target_encoder", "forward pass and loss", "update")}
    assert marks <= named
    updates = [e for e in events if e.get("name") == "hjepa: update" and e.get("ph") == "X"]
    assert len(updates) == 3
    page = (tmp_path / "run" / "profile.md").read_text()
    assert "3 steps after 5 of warm-up" in page
    assert "| forward pass and loss |" in page
    assert "`aten::addmm`" in page or "`aten::mm`" in page
    plain = run()
    assert outcome.step == plain.outcome.step
    mine, theirs = (
        read_checkpoint(path)["model_state_dict"] for path in (outcome.checkpoint, plain.outcome.checkpoint)
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_run_that_ends_earlier_writes_what_there_is(tmp_path: Path) -> None:
    run_training(tiny_config({"training.max_steps": WARM_UP + 2}), output_dir=tmp_path, console=False, profile=100)
    assert (tmp_path / "profile" / f"steps_{WARM_UP + 1}_to_{WARM_UP + 2}.json.gz").is_file()


def test_a_run_that_ends_within_the_warm_up_says_so(tmp_path: Path) -> None:
    seen = run_tiny(tmp_path, {"training.max_steps": 2})
    assert "profile" not in seen.log
    run_training(tiny_config(), output_dir=tmp_path / "b", console=False, profile=100, resume=None)
    run_training(
        tiny_config({"training.max_steps": 2}), output_dir=tmp_path / "short", console=False, profile=3, resume=None
    )
    assert "nothing was profiled" in (tmp_path / "short" / "training.log").read_text()
    assert not (tmp_path / "short" / "profile.md").exists()


def test_no_steps_are_refused(tmp_path: Path) -> None:
    import hjepa

    with pytest.raises(UserError, match="--profile: 0 steps"):
        hjepa.train(tiny_config(), output_dir=tmp_path, profile=0)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["train", "--profile"], ["train", "--profile", "10"]),
        (["train", "--profile", "4", "seed=1"], ["train", "--profile", "4", "seed=1"]),
        (["train", "--profile", "seed=1"], ["train", "--profile", "10", "seed=1"]),
        (["train", "--profile", "--epochs", "1"], ["train", "--profile", "10", "--epochs", "1"]),
        (["train", "--profile=4"], ["train", "--profile=4"]),
    ],
)
def test_the_number_of_steps_may_be_left_out(given: list[str], read: list[str]) -> None:
    assert normalise(given) == read
