"""Schedules, optimiser groups, moving average, devices."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import tiny_config
from torch import nn

from hjepa.errors import UserError
from hjepa.methods import Horizon, build_method
from hjepa.methods.moving_average import MovingAverage, ema_momentum
from hjepa.runs.checkpoint import read_header
from hjepa.runtime.device import resolve_device
from hjepa.training.nonfinite import MicroBatch
from hjepa.training.optim.build import build_optimizer, set_hyperparameters
from hjepa.training.optim.schedules import Schedules
from hjepa.training.progress import duration
from hjepa.training.saving import Retention
from hjepa.training.step import Interval


def schedules(steps_per_epoch: int = 10, batch: int = 256, **keys: object) -> Schedules:
    return Schedules(tiny_config({f"training.{k}": v for k, v in keys.items()}), steps_per_epoch, batch)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_learning_rate_warms_up_and_decays(kind: str) -> None:
    s = schedules(epochs=10, warmup_epochs=2, lr=1.0, min_lr=0.01, lr_schedule=kind, cooldown_epochs=3)
    rates = [s.lr(step) for step in range(100)]
    assert 0 < rates[0] < 0.1, "the first update is already part of the warm-up"
    assert rates[:20] == sorted(rates[:20])
    assert max(rates) == pytest.approx(1.0)
    assert rates[20] == pytest.approx(1.0)
    falling = rates[20:]
    assert falling == sorted(falling, reverse=True)
    assert rates[-1] < 0.05
    if kind == "constant":
        assert rates[60] == pytest.approx(1.0)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_learning_rate_scales_with_the_global_batch(rule: str, factor: float) -> None:
    base, scaled = schedules(batch=1024), schedules(batch=1024, lr_scaling=rule)
    for step in (0, 7, 15):
        assert scaled.lr(step) == pytest.approx(factor * base.lr(step))


def test_momentum_rises_from_zero_to_its_final_value() -> None:
    keys = {"model.ema.momentum": 0.9, "model.ema.momentum_end": 1.0, "model.ema.momentum_warmup_epochs": 1}
    horizon = Horizon(steps_per_epoch=10, total_steps=50)
    values = [ema_momentum(tiny_config(keys).model.ema, horizon, step) for step in range(51)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[10] == pytest.approx(0.9)
    assert values[50] == pytest.approx(1.0)
    constant = tiny_config({"model.ema.momentum": 0.99, "model.ema.momentum_end": 0.99}).model.ema
    assert {round(ema_momentum(constant, horizon, step), 9) for step in range(20)} == {0.99}


def test_weight_decay_reaches_its_final_value() -> None:
    s = schedules(epochs=10, weight_decay=0.04, weight_decay_end=0.4)
    assert s.weight_decay(0) == pytest.approx(0.04)
    assert s.weight_decay(50) == pytest.approx(0.22)
    assert s.weight_decay(100) == pytest.approx(0.4)


def test_weight_decay_applies_only_to_matrices() -> None:
    method = build_method(tiny_config())
    names = {id(p): n for n, p in method.weights.named_parameters()}
    groups = method.param_groups()
    spared_names = {names[id(p)] for group in groups if not group.decays for p in group.parameters}
    assert all(n.endswith("bias") or "norm" in n or "mask_token" in n for n in spared_names)
    assert all(names[id(p)].endswith("weight") for group in groups if group.decays for p in group.parameters)
    assert {names[id(p)].rpartition("blocks.")[1] for g in groups if g.hidden for p in g.parameters} == {"blocks."}
    assert all(".qkv." in names[id(p)] for group in groups if group.pieces == 3 for p in group.parameters)
    found = [id(p) for group in groups for p in group.parameters]
    assert sorted(found) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    optimizer = build_optimizer(method, tiny_config().training)
    set_hyperparameters(optimizer, 0.5, 0.25)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.25, 0.0]
    assert {g["lr"] for g in optimizer.param_groups} == {0.5}


def test_the_moving_average_includes_norm_parameters() -> None:
    context, target = nn.LayerNorm(4), nn.LayerNorm(4)
    nn.init.constant_(context.weight, 3.0)
    MovingAverage(context, target)(0.75)
    assert torch.allclose(target.weight, torch.full((4,), 0.75 * 1 + 0.25 * 3))
    MovingAverage(context, target)(1.0)
    assert torch.allclose(target.weight, torch.full((4,), 1.5))


@pytest.mark.parametrize("made", [None, torch.tensor(True)])
def test_means_in_a_record_are_accumulated_in_float32(made: torch.Tensor | None) -> None:
    interval = Interval()
    value = torch.tensor(1.0078125).bfloat16()  # 1 and the last bit of bf16
    for _ in range(50):
        terms = {"loss/level_0": value, "loss/level_1": value, "covariance": value}
        interval.add(MicroBatch(torch.zeros(1), value, terms, torch.ones(1), {}), made)
    means = interval.means({"chance/level_0": torch.zeros(())})
    for name in ("loss", "loss/level_0", "loss/level_1", "covariance"):
        # At this size a sum in bf16 has steps of 0.25.
        assert means[name] == pytest.approx(1.0078125, rel=1e-6)


@pytest.mark.parametrize("name", ["cuda:99", "mps", "tpu"])
def test_a_missing_device_is_named_in_the_error(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    with pytest.raises(UserError, match=name) as error:
        resolve_device(name)
    assert "\n" not in str(error.value)


def test_auto_finds_a_device() -> None:
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("background", [False, True])
def test_retention_keeps_the_best_and_the_newest(tmp_path: object, background: bool) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    retention = Retention(folder, keep=2, background=background)
    for number, value in enumerate([0.3, 0.9, 0.5, 0.8, 0.1]):
        retention.save({"step": number}, periodic=[f"checkpoint_epoch_{number}.pth"], score=value, best=True)
    retention.wait()
    left = {p.name for p in folder.glob("*.pth")}
    kept = {"checkpoint_epoch_1.pth", "checkpoint_epoch_3.pth", "checkpoint_epoch_4.pth"}
    assert left == kept | {"last.pth", "best_model.pth"}
    steps = {name: read_header(folder / name) for name in ("best_model.pth", "last.pth")}
    assert [header.step for header in steps.values() if header] == [1, 4]


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4s"), (200, "3m20s"), (7500, "2h05m")])
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert duration(seconds) == text
