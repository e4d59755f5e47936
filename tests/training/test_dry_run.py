"""`--dry-run`: says what a run would do and writes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.conftest import Run, tiny_config
from typer.testing import CliRunner

import hjepa
from hjepa.benchmark import dry_run as module
from hjepa.cli.main import app
from hjepa.config import dump_config
from hjepa.errors import UserError
from hjepa.training.cost import training_cost
from hjepa.training.disk import checkpoint_bytes


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)


def test_it_agrees_with_the_run_itself(run: Run, tmp_path: Path) -> None:
    config = tiny_config({"training.epochs": 3})
    plan = hjepa.dry_run(config, output_dir=tmp_path / "none" / "run")
    assert not (tmp_path / "none").exists()
    seen = run({"training.epochs": 3})
    weights = seen.state["model_state_dict"]
    for name in ("context_encoder", "predictors", "target_encoder"):
        assert plan.parameters[name] == sum(v.numel() for k, v in weights.items() if k.startswith(f"{name}."))
    assert (plan.steps, plan.epochs, plan.images_per_step) == (seen.outcome.step, 3, 16)
    assert plan.evaluations == len(seen.evals)
    cost = training_cost(config, 3)
    assert plan.flop == pytest.approx(cost.total * 16 * plan.steps)
    assert all(line in seen.log for line in plan.model)
    # Files hold little more than the tensors.
    size = seen.outcome.checkpoint.stat().st_size
    assert plan.checkpoint_bytes < size < 1.5 * plan.checkpoint_bytes + 100_000
    assert json.loads(json.dumps(plan.as_dict()))["folder"] == str(tmp_path / "none" / "run")
    # Waiting for data depends on the machine.
    assert all("health is measured on" in w or "waiting for data" in w for w in plan.warnings)


def test_the_command_prints_it_and_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny_config()))
    before = sorted(os.walk(tmp_path))
    result = CliRunner().invoke(app, ["train", "--config", "tiny.yaml", "--dry-run", "--max-steps", "3"])
    assert result.exit_code == 0
    assert sorted(os.walk(tmp_path)) == before
    for words in ("parameters", "FLOP", "images/s", "memory", "disk", "3 steps of 16 images", "nothing was written"):
        assert words in result.output
    assert "training.max_steps ends the run before its last epoch" in result.output


def test_it_warns_of_what_train_would_refuse_or_regret(run: Run) -> None:
    folder = run({"training.max_steps": 1}).folder
    plan = hjepa.dry_run(tiny_config({"training.warmup_epochs": 5}), output_dir=folder)
    said = " ".join(plan.warnings)
    assert "a run is already there" in said
    assert "the learning rate never decays" in said


def test_it_needs_no_room_for_checkpoints_but_says_when_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from hjepa.benchmark.step import TimedStep

    needed = checkpoint_bytes(TimedStep(tiny_config()).trainer.method)
    usage = __import__("shutil").disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=needed))
    assert "checkpoints will need about" in " ".join(hjepa.dry_run(tiny_config()).warnings)


def test_what_it_cannot_describe_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["train", "--dry-run", "--resume", "auto"])
    assert isinstance(result.exception, UserError)
    assert "--dry-run: describes a new run" in str(result.exception)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start it without torchrun"):
        hjepa.dry_run(tiny_config())
