"""The scaling model: its tables match docs/scaling.md, and its formulas match built models and DDP."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.report import configuration

from benchmarks import scaling_checks, scaling_formulas, scaling_model
from hjepa.config import load_config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def sizes() -> list[scaling_formulas.Size]:
    return scaling_model.sizes()


def test_the_page_has_the_tables_that_the_command_prints(
    sizes: list[scaling_formulas.Size], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling_model.main(["--json", str(tmp_path / "model.json")])
    printed = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n\n", capsys.readouterr().out, re.S))
    page = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n\n", (DOCS / "scaling.md").read_text(), re.S))
    assert set(printed) == {"models", "steps", "limits", "hours"}
    assert page == printed
    assert json.loads((tmp_path / "model.json").read_text()) == json.loads(
        (DOCS / "results" / "scaling_model.json").read_text()
    )


@pytest.mark.parametrize("label", ["ViT-S/16", "ViT-H/14"])
def test_parameters_and_flop_equal_those_of_built_models(label: str, sizes: list[scaling_formulas.Size]) -> None:
    size = next(size for size in sizes if size.name == label)
    config = load_config(scaling_formulas.PRESET, {"model.encoder_type": scaling_formulas.MODELS[label]})
    encoder, predictor, flop = scaling_checks.count_on_meta(config)
    assert (size.encoder, size.predictor) == (encoder, predictor)
    assert flop == pytest.approx(size.cost.total, rel=0.005)


@pytest.mark.parametrize("half", [False, True])
def test_bytes_saved_for_the_backward_pass_match_the_formula(half: bool) -> None:
    config = configuration("quickstart", ["model.depth=3", "masking.sets_per_image=2"])
    kept = scaling_checks.kept_bytes(config, 2, half=half)
    assert kept == pytest.approx(scaling_checks.formula_bytes(config, half=half), rel=0.06)


def test_gradient_bytes_match_the_formula() -> None:
    config = configuration("quickstart", ["model.depth=3"])
    size = scaling_formulas.describe("small", config)
    # One process; `benchmarks.scaling_checks` runs two and also counts the bytes sent.
    handed, _, trained = scaling_checks.exchanged_bytes(config, world=1)
    assert trained == size.trained
    assert handed == scaling_formulas.FP32 * trained == scaling_formulas.ddp_volume(size, 2)


def test_step_plans_are_consistent(sizes: list[scaling_formulas.Size]) -> None:
    for size in sizes:
        assert scaling_formulas.ddp_volume(size, 1) == scaling_formulas.fsdp_volume(size, 1) == 0
        for world in scaling_formulas.WORLDS:
            plan = scaling_formulas.step_plan(size, scaling_formulas.H100, world)
            assert plan["images"] * plan["passes"] * world == scaling_formulas.GLOBAL_BATCH
            assert plan["all"] <= scaling_formulas.USABLE * scaling_formulas.H100.memory
            if world > 1:
                assert plan["sharded"] < plan["state"]
                assert plan["volume"] < plan["sharded volume"] < 1.3 * plan["volume"]
    twice = scaling_formulas.gpu_hours(sizes[0], 100, 2, 0.4)
    assert twice == pytest.approx(2 * scaling_formulas.gpu_hours(sizes[0], 100, 1, 0.4))
    with pytest.raises(ValueError, match="shared predictor only"):
        scaling_formulas.describe("x", configuration("quickstart", ["model.predictor.sharing=separate"]))
