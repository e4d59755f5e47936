"""Loading a run whose last checkpoint is damaged: the newest intact one is used."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import run_tiny

import hjepa
from hjepa.errors import CheckpointError
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.training import load_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    for index in range(120):
        name = "left" if index % 2 else "right"
        (root / "pictures" / name).mkdir(parents=True, exist_ok=True)
        array = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(array).save(root / "pictures" / name / f"{index}.png")
    # Few images, so that figures are drawn quickly.
    keys = {"data.dataset": "folder", "data.data_path": str(root / "pictures"), "checkpoint.save_every_steps": 5}
    return run_tiny(root / "run", keys).folder


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_newest_intact_checkpoint_is_used_with_a_one_line_message(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_dir / "checkpoints"
    names = {file.name: read_checkpoint(file)["step"] for file in folder.glob("*.pth")}
    assert names["last.pth"] == names["checkpoint_epoch_2.pth"] == 12
    assert names["checkpoint_step_10.pth"] == 10
    for name in names:
        if names[name] == 12:
            flip(folder / name)
    with caplog.at_level(logging.WARNING, logger="hjepa"):
        run = load_run(run_dir, device="cpu")
    assert (run.step, run.checkpoint, run.run_dir) == (10, folder / "checkpoint_step_10.pth", run_dir)
    whole = read_checkpoint(folder / "checkpoint_step_10.pth")["model_state_dict"]
    assert all(torch.equal(value, whole[name]) for name, value in run.model.state_dict().items())
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.endswith(f"; using {folder / 'checkpoint_step_10.pth'} instead") for line in lines)
    assert sum(str(folder / "last.pth") in line for line in lines) == 1
    assert load_run(folder, device="cpu").step == 10


@pytest.mark.parametrize("damage", [cut, flip, lambda file: file.write_bytes(b"")])
def test_evaluation_figures_and_encoder_work_if_the_last_checkpoint_is_damaged(
    damage: object, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(run_dir / "checkpoints" / "last.pth")  # type: ignore[operator]
    encoder = hjepa.load_pretrained(run_dir)
    assert encoder.card["step"] == 12
    assert caplog.text.count("last.pth") == 1
    if damage is cut:
        keys = {"evaluation.train_images": 60, "evaluation.test_images": 60}
        results = hjepa.evaluate(run_dir, eval_type="knn", device="cpu", overrides=keys)
        assert results["knn"]
        assert (run_dir / "results.json").is_file()
        assert (run_dir / "figures" / "curves.png") in hjepa.visualize(run_dir, device="cpu")


def test_a_damaged_checkpoint_given_by_name_is_not_replaced(run_dir: Path) -> None:
    flip(run_dir / "checkpoints" / "last.pth")
    with pytest.raises(CheckpointError, match=r"last\.pth: damaged .*; use another one, for example "):
        load_run(run_dir / "checkpoints" / "last.pth", device="cpu")


def test_only_damaged_checkpoints_are_an_error_even_beside_one_of_another_run(run_dir: Path, tmp_path: Path) -> None:
    other = run_tiny(tmp_path / "other", {"training.max_steps": 1})
    for file in (run_dir / "checkpoints").glob("*.pth"):
        cut(file)
    with pytest.raises(CheckpointError, match=r"last\.pth: damaged"):
        load_run(run_dir, device="cpu")
    shutil.copy(other.outcome.checkpoint, run_dir / "checkpoints" / "stranger.pth")
    assert json.loads((run_dir / "environment.json").read_text())["run"]
    with pytest.raises(CheckpointError, match=r"last\.pth: damaged"):
        load_run(run_dir, device="cpu")
