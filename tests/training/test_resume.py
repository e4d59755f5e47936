"""Resuming with another batch size, number of processes or length: progress is counted in images, not in steps."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Run, run_tiny, tiny_config

from hjepa.errors import UserError
from hjepa.methods import build_method
from hjepa.training.optim.schedules import Schedules
from hjepa.training.resume import resumed_step

# 12 steps of 16 images per epoch.
KEYS: dict[str, Any] = {"data.subset": 192, "training.epochs": 4, "training.warmup_epochs": 0}


def test_a_doubled_batch_continues_after_the_same_number_of_images(run: Run) -> None:
    half = run({**KEYS, "training.max_steps": 24})
    seen = run({**KEYS, "data.batch_size": 32}, folder=half.folder, resume="auto")
    assert seen.outcome.completed
    assert not seen.outcome.already_done
    assert seen.outcome.step == 24  # 4 epochs of 6 steps
    assert "step 24 of 48 becomes step 12 of 24" in seen.log
    steps = [record["step"] for record in seen.records]
    assert steps == sorted(steps)
    epochs = [record["epoch"] for record in seen.records]
    assert epochs == sorted(epochs)
    rates = [record["lr"] for record in seen.records]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))


def test_a_halved_batch_does_not_repeat_images(run: Run) -> None:
    half = run({**KEYS, "training.max_steps": 24})
    seen = run({**KEYS, "data.batch_size": 8, "training.max_steps": 50}, folder=half.folder, resume="auto")
    assert seen.records[-1]["step"] == 50
    assert seen.records[-1]["epoch"] == pytest.approx(50 / 24)


def test_another_micro_batch_size_with_the_same_global_batch_keeps_the_step(run: Run) -> None:
    half = run({**KEYS, "training.max_steps": 24})
    seen = run({**KEYS, "data.batch_size": 8, "training.accumulation_steps": 2}, folder=half.folder, resume="auto")
    assert seen.outcome.step == 48
    assert "becomes step" not in seen.log


def test_extending_a_run_is_refused_if_the_learning_rate_would_jump(run: Run) -> None:
    whole = run(KEYS)
    before = whole.outcome.checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"training\.epochs: .* would jump from .*resume_schedule=stretch") as error:
        run({**KEYS, "training.epochs": 8}, folder=whole.folder, resume="auto")
    assert "\n" not in str(error.value)
    assert whole.outcome.checkpoint.read_bytes() == before
    seen = run(
        {**KEYS, "training.epochs": 8, "training.resume_schedule": "stretch"}, folder=whole.folder, resume="auto"
    )
    assert seen.outcome.step == 96
    assert "allowed by training.resume_schedule=stretch" in seen.log


CONSTANT: dict[str, Any] = {**KEYS, "training.lr_schedule": "constant", "model.ema.momentum_end": 0.996}


def test_a_run_with_constant_schedules_may_be_extended(run: Run) -> None:
    part = run({**CONSTANT, "training.max_steps": 40})
    seen = run({**CONSTANT, "training.epochs": 8, "training.max_steps": 42}, folder=part.folder, resume="auto")
    assert seen.outcome.step == 42


@pytest.mark.parametrize(
    ("keys", "quantity", "remedy"),
    [
        ({"model.ema.momentum_end": 1.0}, "momentum", "model.ema.momentum_end equal to model.ema.momentum"),
        ({"training.weight_decay_end": 0.4}, "weight decay", "training.weight_decay_end=null"),
    ],
)
def test_extending_a_run_is_refused_if_another_schedule_would_jump(
    keys: dict[str, Any], quantity: str, remedy: str
) -> None:
    config = tiny_config({**CONSTANT, **keys})
    state = {"step": 40, "config": config.model_dump(mode="json"), "steps_per_epoch": 12, "global_batch": 16}
    longer = tiny_config({**CONSTANT, **keys, "training.epochs": 12})
    method = build_method(longer)
    with pytest.raises(UserError, match=f"with 12, the {quantity} would jump from ") as error:
        resumed_step(state, Schedules(longer, 12, 16), method)
    assert remedy in str(error.value)
    assert "learning rate" not in str(error.value)
    assert "\n" not in str(error.value)
    stretched = tiny_config({**CONSTANT, **keys, "training.epochs": 12, "training.resume_schedule": "stretch"})
    assert resumed_step(state, Schedules(stretched, 12, 16), method) == 40


def test_the_message_about_a_jump_counts_one_epoch() -> None:
    config = tiny_config({**KEYS, "training.epochs": 1})
    state = {"step": 6, "config": config.model_dump(mode="json"), "steps_per_epoch": 12, "global_batch": 16}
    with pytest.raises(UserError, match=r"planned for 1 epoch and is at epoch 0\.50; with 4,"):
        resumed_step(state, Schedules(tiny_config(KEYS), 12, 16))


@pytest.mark.parametrize(("images", "step", "of"), [(96, 12, 24), (384, 48, 96), (188, 22, 44)])
def test_another_number_of_images_continues_at_the_same_epoch(run: Run, images: int, step: int, of: int) -> None:
    half = run({**KEYS, "training.max_steps": 24})
    keys = {**KEYS, "data.subset": images}
    seen = run({**keys, "training.max_steps": step + 2}, folder=half.folder, resume="auto")
    assert not seen.outcome.already_done
    assert f"at epoch 2.00, step 24 of 48 becomes step {step} of {of}" in seen.log
    assert seen.state["data"]["images"] == images
    steps = [record["step"] for record in seen.records]
    assert steps[-3:] == [step, step + 1, step + 2]
    rates = [record["lr"] for record in seen.records]
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    momenta = [record["momentum"] for record in seen.records]
    assert all(later >= earlier for earlier, later in itertools.pairwise(momenta))


def test_a_few_images_fewer_in_the_same_number_of_steps_keep_the_step(run: Run) -> None:
    half = run({**KEYS, "data.subset": 196, "training.max_steps": 24})
    seen = run({**KEYS, "training.max_steps": 26}, folder=half.folder, resume="auto")
    assert "has 192 images, but had 196 before" in seen.log
    assert "becomes step" not in seen.log


def test_a_finished_run_stays_finished_with_other_images_and_keeps_its_records(run: Run) -> None:
    whole = run({**KEYS, "training.epochs": 1})
    before = whole.files(), (whole.folder / "metrics.jsonl").read_bytes(), (whole.folder / "config.yaml").read_bytes()
    seen = run({**KEYS, "training.epochs": 1, "data.subset": 384}, folder=whole.folder, resume="auto")
    assert seen.outcome.already_done
    after = seen.files(), (seen.folder / "metrics.jsonl").read_bytes(), (seen.folder / "config.yaml").read_bytes()
    assert after == before


def test_the_global_batch_of_older_checkpoints_is_derived_from_their_processes() -> None:
    config = tiny_config(KEYS)
    state = {"step": 12, "config": config.model_dump(mode="json"), "processes": [{}], "data": {"images": 192}}
    # Two processes of 16 images have 6 steps per epoch, one process has 12.
    assert resumed_step(state, Schedules(config, 12, 16)) == 24


def test_converting_the_step_does_not_finish_an_unfinished_run() -> None:
    config = tiny_config(KEYS)
    state = {"step": 47, "config": config.model_dump(mode="json"), "steps_per_epoch": 12, "global_batch": 16}
    assert resumed_step(state, Schedules(config, 1, 192)) == 3
    assert resumed_step(state | {"step": 48}, Schedules(config, 1, 192)) == 4


def test_the_records_of_earlier_steps_are_converted_too(tmp_path: Path) -> None:
    run_tiny(tmp_path / "run", {**KEYS, "training.max_steps": 24})
    run_tiny(tmp_path / "run", {**KEYS, "data.batch_size": 32, "training.max_steps": 14}, resume="auto")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained][-3:] == [12, 13, 14]
    assert trained[-3]["epoch"] == pytest.approx(2.0)


def test_records_are_converted_once_if_a_run_is_killed_before_it_saves_again(run: Run) -> None:
    half = run({**KEYS, "training.max_steps": 24})
    saved = {file: file.read_bytes() for file in (half.folder / "checkpoints").glob("*.pth")}
    larger = {**KEYS, "data.batch_size": 32}
    run({**larger, "training.max_steps": 14}, folder=half.folder, resume="auto")
    # As if it had been killed before its first checkpoint.
    for file in (half.folder / "checkpoints").glob("*.pth"):
        file.unlink()
    for file, data in saved.items():
        file.write_bytes(data)
    seen = run({**larger, "training.max_steps": 13}, folder=half.folder, resume="auto")
    assert [record["step"] for record in seen.records][-2:] == [12, 13]
    for record in seen.records:
        assert record["step"] == pytest.approx(6 * record["epoch"], abs=0.51)
