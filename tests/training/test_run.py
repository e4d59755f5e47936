"""Whole runs: their files, resuming, interruption, divergence."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import TINY, Run, run_tiny

from hjepa import load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.runs.folder import environment as run_environment
from hjepa.training import load_run, run_training, untrained_encoder


def equal_states(a: dict[str, Any], b: dict[str, Any]) -> None:
    for name, value in a["model_state_dict"].items():
        assert torch.equal(value, b["model_state_dict"][name]), name
    for index, values in a["optimizer_state_dict"]["state"].items():
        for name, value in values.items():
            assert torch.equal(value, b["optimizer_state_dict"]["state"][index][name])
    assert torch.equal(a["random"]["cpu"], b["random"]["cpu"])


def test_a_run_folder_contains_the_documented_files(run: Run) -> None:
    seen = run()
    assert seen.files() >= {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "training.log",
        "checkpoints/last.pth",
        "checkpoints/best_model.pth",
        "checkpoints/checkpoint_epoch_1.pth",
        "checkpoints/checkpoint_epoch_2.pth",
    }
    assert {"epoch", "loss", "model_state_dict", "optimizer_state_dict", "config", "step"} <= seen.state.keys()
    environment = json.loads((seen.folder / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["torch"] == torch.__version__
    last = seen.records[-1]
    for name in ("loss/level_0", "chance/level_1", "lr", "momentum", "images_per_second", "data_wait"):
        assert isinstance(last[name], float)
    assert {"knn", "rank", "rank/level_1", "std/level_0", "cosine/level_0"} <= seen.evals[-1].keys()


def test_the_recorded_command_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["ablate", "study.yaml", "--cells", "four levels", "model.levels=[{depth: 6}]"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/hjepa", *typed])
    command = run_environment(load_config("quickstart"), torch.device("cpu"), 1)["command"]
    assert shlex.split(command) == ["hjepa", *typed]


def test_the_loss_falls_below_chance_and_the_target_moves(run: Run) -> None:
    keys = {
        "data.dataset": "digits",
        "data.image_size": None,
        "data.subset": 320,
        "training.epochs": 12,
        "training.lr": 3e-3,
    }
    keys |= {"loss.variance_loss_weight": 0.1, "loss.covariance_loss_weight": 0.1, "logging.log_frequency": 20}
    seen = run(keys)
    first, last = seen.records[0], seen.records[-1]
    assert last["loss"] < first["loss"]
    assert last["loss/level_1"] < 0.95 * last["chance/level_1"]
    trained = load_run(seen.folder, device="cpu")
    fresh = untrained_encoder(trained)
    key = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(trained.encoder.state_dict()[key], fresh.state_dict()[key])
    assert trained.step == 12 * 20
    assert trained.epoch == 12


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"training.accumulation_steps": 2, "model.drop_path": 0.2},
        {"training.use_amp": True, "data.storage": "workers", "data.num_workers": 1, "masking.sets_per_image": 2},
    ],
)
@pytest.mark.parametrize("stop", [3, 6, 7])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(run: Run, keys: dict[str, Any], stop: int) -> None:
    keys = {"data.subset": 192, **keys}
    whole = run(keys)
    part = run({**keys, "training.max_steps": stop})
    assert part.outcome.step == stop
    resumed = run(keys, folder=part.folder, resume="auto")
    assert resumed.outcome.step == whole.outcome.step
    equal_states(whole.state, resumed.state)
    timeless, again = (
        [
            {k: v for k, v in r.items() if k not in ("time", "images_per_second", "data_wait") and "system/" not in k}
            for r in seen.records
        ]
        for seen in (whole, resumed)
    )
    assert timeless == again


def test_resume_auto_starts_continues_and_recognises_a_finished_run(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "auto"
    first = run({"training.max_steps": 4}, folder=folder, resume="auto")
    assert first.outcome.step == 4
    assert not first.outcome.completed
    second = run(folder=folder, resume="auto")
    assert second.outcome.completed
    third = run(folder=folder, resume="auto")
    assert third.outcome.already_done
    assert "nothing left to do" in third.log
    equal_states(second.state, third.state)


def test_a_folder_with_a_run_is_not_overwritten(run: Run) -> None:
    seen = run({"training.max_steps": 2})
    before = seen.outcome.checkpoint.read_bytes()
    with pytest.raises(UserError, match="--resume auto"):
        run(folder=seen.folder)
    assert seen.outcome.checkpoint.read_bytes() == before


def test_resuming_from_a_file_into_another_folder(run: Run) -> None:
    whole = run()
    start = whole.folder / "checkpoints" / "checkpoint_epoch_1.pth"
    resumed = run(resume=str(start))
    equal_states(whole.state, resumed.state)


def test_changed_keys_are_logged_when_resuming(run: Run) -> None:
    seen = run({"training.max_steps": 2})
    again = run({"training.lr": 5e-4}, folder=seen.folder, resume="auto")
    assert "training.lr 0.001 -> 0.0005" in again.log


def test_another_model_is_not_resumed(run: Run) -> None:
    seen = run({"training.max_steps": 2})
    before = (seen.folder / "config.yaml").read_bytes()
    for keys, says in (
        ({"model.embed_dim": 48}, r"another model \(model\.embed_dim 32 -> 48\)"),
        ({"model.num_heads": 4}, r"another model \(model\.num_heads 2 -> 4\)"),  # the same shapes
        ({"method": "ijepa"}, r"another method \(method hjepa -> ijepa"),
    ):
        with pytest.raises(CheckpointError, match=says) as error:
            run(keys, folder=seen.folder, resume="auto")
        assert "\n" not in str(error.value)
    assert (seen.folder / "config.yaml").read_bytes() == before
    # Keys that do not change the networks may change, and so may the spelling of the same sizes.
    again = run(
        {"model.drop_path": 0.1, "model.ema.momentum": 0.9, "model.predictor.num_heads": 1, "training.max_steps": 3},
        folder=seen.folder,
        resume="auto",
    )
    assert again.outcome.step == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign"])
def test_the_error_for_a_damaged_checkpoint_names_another_one(run: Run, damage: str) -> None:
    seen = run()
    file = seen.folder / "checkpoints" / "last.pth"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_text("not a checkpoint")
    else:
        torch.save({"weights": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"last\.pth") as error:
        run(resume=str(file))
    assert "\n" not in str(error.value)
    assert "use another one, for example" in str(error.value)
    for other in file.parent.glob("*_2.pth"):
        other.unlink()
    (file.parent / "best_model.pth").unlink()
    fallen_back = run(folder=seen.folder, resume="auto")
    assert "; using " in fallen_back.log
    assert "checkpoint_epoch_1.pth instead" in fallen_back.log
    equal_states(seen.state, fallen_back.state)


def test_a_folder_with_only_damaged_checkpoints_is_an_error_not_a_new_run(run: Run) -> None:
    seen = run({"training.max_steps": 2})
    for file in (seen.folder / "checkpoints").glob("*.pth"):
        file.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last\.pth"):
        run(folder=seen.folder, resume="auto")


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "pwned",)

    torch.save({"format_version": 1, "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_the_best_periodic_checkpoints_and_the_newest_are_kept(run: Run) -> None:
    seen = run({"training.epochs": 6, "checkpoint.keep_best_n": 2})
    kept = {f for f in seen.files() if "checkpoint_epoch" in f}
    assert len(kept) in (2, 3)
    assert "checkpoints/checkpoint_epoch_6.pth" in kept
    best = max(seen.evals, key=lambda e: e["knn"])
    state = read_checkpoint(seen.folder / "checkpoints" / "best_model.pth")
    assert state["online"]["knn"] == best["knn"]


def test_a_non_finite_gradient_changes_nothing(tmp_path: Path) -> None:
    # Infinite images give real non-finite gradients; the run stops after ten of them.
    keys = {"data.mean": [0.5] * 3, "data.std": [1e-45] * 3, "training.epochs": 4}
    with pytest.raises(UserError, match="not finite 10 times"):
        run_tiny(tmp_path / "run", keys)
    log = (tmp_path / "run" / "training.log").read_text()
    assert log.count("update skipped") == 10


@pytest.mark.parametrize("loss", ["smoothl1", "cosine"])
def test_accumulation_equals_the_large_batch(run: Run, loss: str) -> None:
    keys = {"training.max_steps": 3, "loss.type": loss, "training.clip_grad": 1.0}
    large = run({**keys, "data.batch_size": 32})
    for batch, steps in ((16, 2), (8, 4), (1, 32)):
        small = run({**keys, "data.batch_size": batch, "training.accumulation_steps": steps})
        assert large.outcome.step == small.outcome.step
        assert torch.allclose(large.weights, small.weights, atol=2e-5)
        for a, b in zip(large.records, small.records, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_runs_are_bit_equal_for_any_number_of_workers(run: Run) -> None:
    equal_states(run().state, run({"training.deterministic": True}).state)
    keys = {"data.storage": "workers", "training.max_steps": 5}
    first = run(keys)
    for workers in (1, 2):
        equal_states(first.state, run({**keys, "data.num_workers": workers}).state)


def test_a_run_resumed_between_two_records_writes_the_same_ones(run: Run) -> None:
    keys = {"logging.log_frequency": 5, "training.epochs": 3}
    whole = run(keys)
    part = run({**keys, "training.max_steps": 7})
    # Stopping wrote a record at step 7, which an uninterrupted run would not have.
    resumed = run(keys, folder=part.folder, resume=str(part.outcome.checkpoint))
    assert [r["step"] for r in resumed.records] == [5, 7, 10, 15, 18]
    assert resumed.records[-1]["loss"] == whole.records[-1]["loss"]


COMMAND = [sys.executable, "-m", "hjepa", "train", "--config"]


def write_config(folder: Path, **keys: Any) -> Path:
    import yaml

    file = folder / "tiny.yaml"
    tree = {**TINY, **keys}
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path, number: signal.Signals) -> None:
    config = write_config(tmp_path, training={"epochs": 100000, "warmup_epochs": 1})
    folder = tmp_path / "run"
    command = [*COMMAND, str(config), "--output-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    metrics = folder / "metrics.jsonl"
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume with: hjepa train --resume" in out
    state = read_checkpoint(folder / "checkpoints" / "last.pth")
    assert state["step"] > 0


def test_two_processes_equal_one(tmp_path: Path) -> None:
    regularised = {**TINY["loss"]} if "loss" in TINY else {}
    regularised |= {"variance_loss_weight": 0.1, "covariance_loss_weight": 0.1}
    training = {"epochs": 1, "warmup_epochs": 0.5, "max_steps": 4, "optimizer": "muon"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    config = write_config(tmp_path, training=training, loss=regularised)
    run_training(load_config(config, {"data.batch_size": 32}), output_dir=tmp_path / "one", console=False)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hjepa"]
    final = ["evaluation.final=true", "evaluation.train_images=48", "evaluation.test_images=40"]
    two = [*launcher, "train", "--config", str(config), "--output-dir", str(tmp_path / "two"), *final]
    result = subprocess.run(two, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    # The other process has exited, so the evaluation may use its thread.
    assert "controls (CPU threads: 2)" in (tmp_path / "two" / "training.log").read_text()
    typed = json.loads((tmp_path / "two" / "environment.json").read_text())["command"]
    assert typed.startswith("torchrun --nproc-per-node 2 -m hjepa train --config ")
    a = read_checkpoint(tmp_path / "one" / "checkpoints" / "last.pth")
    b = read_checkpoint(tmp_path / "two" / "checkpoints" / "last.pth")
    assert a["step"] == b["step"] == 3
    for name, value in a["model_state_dict"].items():
        assert torch.allclose(value, b["model_state_dict"][name], atol=2e-5), name
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for x, y in zip(*lines, strict=True):
        if x["kind"] == "train":
            assert x["loss"] == pytest.approx(y["loss"], rel=1e-4)
