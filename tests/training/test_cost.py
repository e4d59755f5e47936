"""FLOP formulas agree with PyTorch's FLOP counter for a whole step: networks, loss, backward passes and optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from hjepa.benchmark.step import TimedStep
from hjepa.config import load_config
from hjepa.errors import UserError
from hjepa.methods import HJepa
from hjepa.objectives import covariance_loss
from hjepa.objectives.regularisers import sliced_gaussian_loss
from hjepa.training.cost import training_cost
from hjepa.training.optim.build import OptimizerPair

MUON = {"training.optimizer": "muon"}
INFONCE = {"loss.type": "infonce", "loss.candidate_images": 8, "loss.candidate_cells": 3}
ALL = {"loss.variance_loss_weight": 0.1, "loss.covariance_loss_weight": 0.1, "loss.sliced_gaussian_weight": 0.1}
SEPARATE = {"model.predictor.sharing": "separate"}
VISIBLE = {"model.predictor.predict_visible": True}


def counted(keys: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """FLOP per image of one step by stage, counted by PyTorch and computed by the formula."""
    step = TimedStep(tiny_config(keys), synthetic=True)
    trainer = step.trainer
    method = trainer.method
    assert isinstance(method, HJepa)
    found = dict.fromkeys(("forward", "loss", "backward", "optimizer"), 0.0)

    def count(stage: str, work: Any) -> Any:
        # Attention as two products: the count for a fused kernel's backward pass includes products that it recomputes.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            result = work()
        found[stage] += counter.get_total_flops() / step.images
        return result

    for micro in range(step.config.training.accumulation_steps):
        batch = next(step.batches)
        masks = method.masks(0, range(micro * len(batch.images), (micro + 1) * len(batch.images)))
        output = count("forward", lambda batch=batch, masks=masks: method.model(batch.images, masks))
        terms = count("loss", lambda output=output: method.objective(output.predictions, output.targets, output.pooled))
        count("backward", terms.total.backward)
    count("optimizer", trainer.optimizer.step)
    return found, step.cost


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"model.num_hierarchies": 1},
        INFONCE,
        {**INFONCE, **MUON, **ALL},
        {**INFONCE, "data.batch_size": 20, "masking.sets_per_image": 2},  # incomplete blocks
        {**INFONCE, **MUON, **SEPARATE, "training.accumulation_steps": 2},
        {**INFONCE, **VISIBLE, "model.hierarchy": "both"},
        {**INFONCE, **SEPARATE, **VISIBLE, **MUON},
        {**SEPARATE, "model.predictor.coarse_to_fine": True, "model.predictor.depth": 2, "model.hierarchy": "both"},
        {**MUON, "model.mlp_ratio": 2.5, "model.predictor.mlp_ratio": 1, "training.accumulation_steps": 2},
        {**ALL, "loss.regularised_levels": "all", "masking.sets_per_image": 2},
        {"model.levels": [{"depth": 1}, {"depth": 2}, {"depth": 2, "stride": 0}], **INFONCE},
    ],
    ids=lambda keys: ",".join(f"{name.rpartition('.')[2]}={value}" for name, value in keys.items()) or "smoothl1",
)
def test_flop_of_a_whole_step_equal_pytorchs_count(keys: dict[str, Any]) -> None:
    found, cost = counted(keys)
    assert sum(found.values()) == pytest.approx(cost.total, rel=1e-6)
    assert found["optimizer"] == pytest.approx(cost.optimizer, rel=1e-6)
    assert sum(cost.parts.values()) == cost.total
    assert (cost.optimizer > 0) == ("training.optimizer" in keys)
    assert (cost.loss > 0) == (keys.items() >= INFONCE.items() or keys.items() >= ALL.items())


def test_the_loss_is_counted_per_level_and_the_optimiser_per_update() -> None:
    flat, two = (training_cost(tiny_config({**INFONCE, "model.num_hierarchies": n}), 3) for n in (1, 2))
    assert two.loss == pytest.approx(2 * flat.loss)
    once, twice = (training_cost(tiny_config({**MUON, "training.accumulation_steps": n}), 3) for n in (1, 2))
    assert once.optimizer == pytest.approx(2 * twice.optimizer)
    assert training_cost(tiny_config(MUON), 3, processes=4).optimizer == pytest.approx(once.optimizer / 4)


def test_the_work_of_all_processes_is_added() -> None:
    """Gathered rows are processed by every process; InfoNCE and, on CPUs, Muon's matrices are divided among them."""
    gathered = tiny_config(ALL)
    assert training_cost(gathered, 3, processes=4).loss == pytest.approx(4 * training_cost(gathered, 3).loss)
    divided = tiny_config(INFONCE)
    assert training_cost(divided, 3, processes=4).loss == pytest.approx(training_cost(divided, 3).loss)
    muon = tiny_config(MUON)
    alone = training_cost(muon, 3).optimizer
    assert training_cost(muon, 3, processes=4, device="cuda").optimizer == pytest.approx(alone)
    assert training_cost(muon, 3, processes=4, device="cpu").optimizer == pytest.approx(alone / 4)
    named = tiny_config({**MUON, "device": "cuda:0"})
    assert training_cost(named, 3, processes=4).optimizer == pytest.approx(alone)


@pytest.mark.parametrize("processes", [1, 4])
def test_one_process_computes_the_regularisers_on_the_rows_of_all(processes: int) -> None:
    config = tiny_config(ALL)
    images, width = config.data.batch_size, config.geometry().embed_dim
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(processes * images, width, generator=generator, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        (covariance_loss(rows) + sliced_gaussian_loss(rows, seed=0)).backward()
    # Each of the processes computes this, for as many images together as there are rows.
    together = processes * counter.get_total_flops() / len(rows)
    assert training_cost(config, 3, processes=processes).loss == pytest.approx(together)


def test_the_formula_includes_every_matrix_that_muon_updates() -> None:
    step = TimedStep(tiny_config({**MUON, **SEPARATE}), synthetic=True)
    assert isinstance(step.trainer.optimizer, OptimizerPair)
    # Muon orthogonalises only parameters with a gradient, so give one to every parameter.
    for parameter in step.trainer.method.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    with FlopCounterMode(display=False) as counter:
        step.trainer.optimizer.step()
    assert counter.get_total_flops() / step.images == pytest.approx(step.cost.optimizer)


def test_the_cost_of_a_batch_too_small_for_infonce_is_an_error() -> None:
    with pytest.raises(UserError, match=r"loss\.candidate_images=64"):
        training_cost(tiny_config({"loss.type": "infonce"}), 3)


def test_config_check_reports_the_cost_of_a_step_and_the_number_of_processes() -> None:
    from hjepa.cli.config import app

    printed = CliRunner().invoke(app, ["check", "cifar10_cpu", "data.batch_size=32"]).stdout
    cost = training_cost(load_config("cifar10_cpu", {"data.batch_size": 32}), 3, processes=2)
    assert f"{cost.total / 1e9:.3f} GFLOP per image" in printed
    assert f"loss {cost.loss / 1e9:.3f}, optimizer {cost.optimizer / 1e9:.3f}" in printed
    assert "needs at least 2 processes" in printed
