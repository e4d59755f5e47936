"""Whether the host or the device decides about an update, weights, counts and reports are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import Run, tiny_config
from tests.training.test_guards import BEFORE, same_learning_state, spoilt
from torch import nn

from hjepa.config import Config
from hjepa.errors import UserError
from hjepa.methods.moving_average import MovingAverage
from hjepa.models.hjepa import HJEPA
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.training.nonfinite import SkippedUpdates
from hjepa.training.optim.build import build_optimizer
from hjepa.training.precision import Precision
from hjepa.training.step import Update


@contextmanager
def decided(late: bool) -> Iterator[None]:
    """Let the device decide about updates, as on a GPU, or the host."""
    constructed = Update.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Update, "__init__", lambda self, *given: constructed(self, *given, late=late))
        yield


@pytest.fixture
def late() -> Iterator[None]:
    """Let the device decide about updates."""
    with decided(late=True):
        yield


def differences(a: dict[str, Any], b: dict[str, Any]) -> float:
    return max(float((v - b[name]).abs().max()) for name, v in a.items())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_host_and_device_decisions_give_the_same_run(run: Run, optimizer: str) -> None:
    here = run({"training.optimizer": optimizer})
    with decided(late=True):
        there = run({"training.optimizer": optimizer})
    # The moving average and the norm are summed in another order.
    assert differences(here.state["model_state_dict"], there.state["model_state_dict"]) < 1e-6
    for one, other in zip(here.records, there.records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one.get("grad_norm") == pytest.approx(other.get("grad_norm"), rel=1e-4)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [("image", "adamw"), ("target", "adamw"), ("prediction", "adamw"), ("gradient", "adamw"), ("gradient", "muon")],
)
def test_updates_skipped_by_the_device_change_neither_weights_nor_target(run: Run, stage: str, optimizer: str) -> None:
    clean = run({"training.max_steps": BEFORE, "training.optimizer": optimizer})
    with spoilt(stage):
        seen = run({"training.max_steps": BEFORE + 1, "training.optimizer": optimizer})
    same_learning_state(clean.state, seen.state)
    assert seen.state["skipped"] == clean.state["skipped"] + 1
    assert "update skipped" in seen.log
    report = json.loads((seen.folder / "non_finite" / f"step_{BEFORE:08d}_rank0.json").read_text())
    assert (report["step"], report["stage"]) == (BEFORE, stage)


@pytest.mark.usefixtures("late")
def test_skipped_updates_are_excluded_from_the_means_in_a_record(run: Run) -> None:
    steps = BEFORE + 2
    every = run({"training.max_steps": steps})
    with spoilt("prediction"):
        seen = run({"training.max_steps": steps, "logging.log_frequency": steps})
    (record,) = [r for r in seen.records if r["kind"] == "train"]
    assert record["skipped"] == 1
    # After the non-finite step the weights differ from those of the clean run, so only earlier steps are compared.
    alone = [r["loss"] for r in every.records if r["kind"] == "train"][:BEFORE]
    last = record["loss"] * (steps - 1) - sum(alone)
    assert 0.5 * alone[-1] < last < 1.5 * alone[-1]


@pytest.mark.usefixtures("late")
def test_a_run_without_a_finite_step_stops_at_its_next_record_or_checkpoint(run: Run, tmp_path: Path) -> None:
    with spoilt("gradient", every=True), pytest.raises(UserError, match="not finite 10 times in a row") as error:
        run({"training.max_steps": 30, "training.epochs": 8, "logging.log_frequency": 15}, folder=tmp_path / "lost")
    assert "\n" not in str(error.value)
    saved = read_checkpoint(tmp_path / "lost" / "checkpoints" / "last.pth")
    assert saved["step"] == 12
    assert saved["skipped"] == 12 - BEFORE


@pytest.mark.usefixtures("late")
def test_the_number_of_pending_update_results_is_bounded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hjepa.training.step._MOST_OPEN", 2)
    with spoilt("gradient", every=True), pytest.raises(UserError, match="not finite 10 times in a row"):
        run({"training.max_steps": 30, "logging.log_frequency": 30, "data.subset": 1000}, folder=tmp_path / "lost")
    assert read_checkpoint(tmp_path / "lost" / "checkpoints" / "last.pth")["step"] == BEFORE + 10


def test_the_device_decides_unless_an_update_may_stop_the_run(tmp_path: Path) -> None:
    def decides(**keys: Any) -> bool:
        config = tiny_config({key.replace("__", "."): value for key, value in keys.items()})
        return _update(config, tmp_path, "cuda").late

    assert decides()
    assert not decides(training__non_finite="stop")
    assert decides(training__optimizer="muon")
    assert not _update(tiny_config({}), tmp_path, "cpu").late


def _update(config: Config, folder: Path, device: str) -> Update:
    from hjepa.methods import build_method

    method = build_method(config, 3)
    skips = SkippedUpdates(config.training.non_finite, folder, [], 0)
    precision = Precision(config.training, torch.device(device))
    return Update(method, build_optimizer(method, config.training), precision, config.training, "ddp", skips)


@pytest.mark.parametrize("made", [True, False])
def test_the_moving_average_is_updated_only_after_an_update(made: bool) -> None:
    context, target = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    expected = [
        t.lerp(c, 0.25 if made else 0.0).detach()
        for c, t in zip(context.parameters(), target.parameters(), strict=True)
    ]
    MovingAverage(context, target)(0.75, torch.tensor(made))
    for one, other in zip(target.parameters(), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-7)
        assert made or torch.equal(one, other)


@pytest.mark.parametrize("late", [True, False])
def test_a_report_names_only_the_non_finite_parameters(run: Run, late: bool) -> None:
    name = "context_encoder.patch_embed.proj.weight"
    passes = 0

    def spoil(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal passes
        if isinstance(module, HJEPA) and module.training:
            passes += 1
            if passes == BEFORE + 1:
                module.get_parameter(name).register_hook(lambda gradient: gradient * float("nan"))

    handle = nn.modules.module.register_module_forward_hook(spoil)
    try:
        with decided(late):
            seen = run({"training.max_steps": BEFORE + 1, "training.clip_grad": 1.0})
    finally:
        handle.remove()
    report = json.loads((seen.folder / "non_finite" / f"step_{BEFORE:08d}_rank0.json").read_text())
    assert report["parameters"] == [name]
