"""The measurements run and report consistent results. No test depends on measured times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.published import speed
from benchmarks.stages import STAGES, Laps
from benchmarks.traffic import Traffic
from tests.conftest import tiny_config

from benchmarks import (
    all as everything,
)
from benchmarks import (
    attention,
    cell_cost,
    data_workers,
    evaluation_speed,
    gpu,
    level_cost,
    masks,
    muon_share,
    peak_memory,
    scaling,
    start_up,
    step_stages,
    variants,
    work,
)
from hjepa.benchmark.step import TimedStep
from hjepa.models.cost import step_cost


def figures(main: Callable[[list[str]], None], file: Path, *arguments: str) -> dict[str, Any]:
    """The JSON output of a measurement with `--short`."""
    threads = torch.get_num_threads()
    try:
        main(["--short", "--threads", "1", "--json", str(file), *arguments])
    finally:
        torch.set_num_threads(threads)
    written = json.loads(file.read_text())
    assert written["environment"]["torch"] == torch.__version__
    assert written["environment"]["device_name"]
    assert written["threads"] == 1
    return written


def test_stages_add_up_to_the_step_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = figures(step_stages.main, tmp_path / "stages.json")
    rows = {row["stage"]: row for row in written["stages"]}
    assert tuple(rows) == STAGES
    assert sum(row["share of step"] for row in rows.values()) == pytest.approx(1)
    assert all(rows[stage]["ms"] > 0 for stage in STAGES)
    # Two independent counts: PyTorch's dispatcher, which also counts crops, and the formula in `hjepa.models.cost`.
    counted = sum(rows[stage]["GFLOP"] for stage in ("target", "context", "predictor", "loss", "backward")) * 1e9
    assert counted == pytest.approx(written["flop_per_step_by_formula"], rel=0.02)
    # The gradient with respect to the images is not needed; everything else costs twice its forward pass.
    forward = rows["context"]["GFLOP"] + rows["predictor"]["GFLOP"]
    assert rows["backward"]["GFLOP"] == pytest.approx(2 * forward, rel=0.03)
    assert rows["masks"]["GFLOP"] == rows["moving average"]["GFLOP"] == 0
    assert "share of peak" in capsys.readouterr().out


@pytest.mark.parametrize("keys", [{}, {"model.predictor.sharing": "separate", "training.accumulation_steps": 2}])
def test_timing_the_stages_does_not_change_training(keys: dict[str, Any]) -> None:
    config = tiny_config(keys)
    plain, watched = TimedStep(config), TimedStep(config)
    laps = Laps(watched)
    for _ in range(2):
        plain()
        seconds = laps()
        assert set(seconds) == set(STAGES)
    pairs = zip(plain.trainer.method.parameters(), watched.trainer.method.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert watched.trainer.step == 2


def test_traffic_of_known_operations() -> None:
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    with Traffic() as traffic:
        traffic.stage = "product"
        product = a @ b
        traffic.stage = "sum"
        product.t().add_(1.0)
    assert traffic.flop == {"product": 2 * 3 * 5 * 7}
    # The in-place sum reads and writes; the transposed view before it moves no data.
    assert traffic.bytes == {"product": 4 * (15 + 35 + 21), "sum": 4 * 2 * 21}


def test_masks_are_timed_for_every_strategy_and_level_count(tmp_path: Path) -> None:
    rows = figures(masks.main, tmp_path / "masks.json")["masks"]
    assert {(row["strategy"], row["levels"]) for row in rows} == {
        (strategy, levels) for strategy in masks.STRATEGIES for levels in masks.LEVELS
    }
    assert all(row["context"] + int(row["targets"].split("/")[0]) <= 14 * 14 for row in rows)


def test_attention_is_timed_at_the_lengths_of_the_step(tmp_path: Path) -> None:
    rows = figures(attention.main, tmp_path / "attention.json")["attention"]
    assert [row["way"] for row in rows] == 3 * list(attention.WAYS)
    assert [row["tokens"] for row in rows[::4]] == [26, 54, 64]


def test_cell_cost_follows_the_configuration_of_each_cell(tmp_path: Path) -> None:
    study = tmp_path / "narrower.yaml"
    study.write_text(
        "title: Narrower\nbase: quickstart\noverrides: {model.depth: 3}\nreference: as it is\n"
        "cells: {narrower: {model.predictor.embed_dim: 32, model.predictor.num_heads: 1}, as it is: {}}\n"
    )
    written = figures(cell_cost.main, tmp_path / "cost.json", str(study))
    rows = {row["cell"]: row for row in written["cell_cost"]}
    assert rows["as it is"]["ratio"] == rows["as it is"]["FLOP ratio"] == 1
    assert rows["narrower"]["FLOP ratio"] < 1
    assert all(row["CPU ms per image"] > 0 for row in rows.values())
    assert written["study"] == "narrower"


def test_muon_share_uses_the_matrix_shapes_of_the_preset(tmp_path: Path) -> None:
    rows = figures(muon_share.main, tmp_path / "muon_share.json", "--config", "quickstart")["muon_share"]
    assert [row["way"] for row in rows] == list(muon_share.WAYS)
    assert rows[0]["ratio"] == 1
    # Six encoder and two predictor blocks: queries, keys, values and projection are square, the MLP is not.
    shapes = {tuple(stack.shape) for stack in muon_share.stacks("cifar10_cpu")}
    encoder, predictor = {(24, 192, 192), (6, 768, 192), (6, 192, 768)}, {(8, 96, 96), (2, 384, 96), (2, 96, 384)}
    assert shapes == encoder | predictor


def test_start_up_compares_with_an_empty_interpreter(tmp_path: Path) -> None:
    file = tmp_path / "start.json"
    start_up.main(["--short", "--json", str(file)])
    rows = json.loads(file.read_text())["start_up"]
    assert [row["case"] for row in rows] == ["empty interpreter", "import hjepa", "hjepa --help"]
    assert rows[0]["over an empty interpreter, s"] == 0
    with pytest.raises(RuntimeError, match="ended with 1"):
        start_up._seconds(["-c", "raise ValueError"], {})


def test_evaluation_speed_reports_times_and_accuracies(tmp_path: Path) -> None:
    written = figures(evaluation_speed.main, tmp_path / "evaluation.json")
    first, probe, nearest, everything = written["evaluation"]
    assert everything["s"] == pytest.approx(first["s"] + probe["s"] + nearest["s"], rel=1e-3)
    # Ten classes: the synthetic features separate them partly.
    assert 0.15 < nearest["accuracy"] < 0.95
    assert 0.2 < probe["accuracy"] < 0.95
    assert written["reading"]["images"] == 64
    config = written["config"]
    assert config["device"] == "cpu"
    assert 0 < written["reading"]["peak_share"] < 1


def test_peak_memory_exceeds_the_size_of_weights_and_optimiser(tmp_path: Path) -> None:
    (row,) = figures(peak_memory.main, tmp_path / "memory.json")["peak_memory"]
    assert row["batch"] == 16
    assert row["peak, MB"] > row["weights and optimiser, MB"] > 5


def test_workers_needed_follow_from_decoding_and_training_speed(tmp_path: Path) -> None:
    rows = figures(data_workers.main, tmp_path / "workers.json", "--config", "quickstart")["data_workers"]
    kinds = {(row["files"], row["decoded"], row["workers"]) for row in rows}
    assert kinds == {("500x375", d, w) for d in ("whole", "as small as will do") for w in (0, 1)}
    for row in rows:
        assert row["workers needed"] >= row["trained/s"] / row["decoded/s and worker"]
        assert 0 < row["data wait"] < 1
        assert row["kB each"] > 3


def test_workers_needed_for_a_stated_device_speed() -> None:
    config = tiny_config({})
    measured = data_workers.measure(config, ["1600x1200"], files=8, workers=(0,), batches=1, steps=1, stated=1e6)
    for row in measured["data_workers"]:
        assert row["trained/s"] == 1e6
        assert row["data wait"] is None
        assert 0 <= row["workers needed"] - 1e6 / row["decoded/s and worker"] < 1


def test_generated_files_have_the_requested_size(tmp_path: Path) -> None:
    from PIL import Image

    total = data_workers.make_files(tmp_path, 12, (64, 48))
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 12
    assert total == sum(file.stat().st_size for file in files)
    assert {Image.open(file).size for file in files} == {(64, 48)}


def test_scaling_reports_every_point_of_the_axes(tmp_path: Path) -> None:
    axes = ["--axes", "batch", "levels", "threads"]
    rows = figures(scaling.main, tmp_path / "scaling.json", *axes)["scaling"]
    assert [(row["axis"], row["value"]) for row in rows] == [
        ("batch", 16),
        ("batch", 32),
        ("levels", 1),
        ("levels", 2),
        ("threads", 1),
    ]
    assert all(row["over first"] == 1 for row in rows if row["value"] in (1, 16))
    levels = [row["GFLOP per image"] for row in rows if row["axis"] == "levels"]
    assert levels[0] < levels[1]


def test_every_point_of_every_axis_is_a_valid_configuration() -> None:
    from benchmarks.report import configuration

    for points in scaling.AXES.values():
        work = []
        for _, overrides in points:
            config = configuration("quickstart", overrides)
            geometry = config.geometry()
            queries = (10,) * len(geometry.levels)
            work.append(step_cost(config.model, geometry, 3, 10, queries, ((0,),)).total)
        assert len(set(work)) == len(work) or points is scaling.AXES["batch"]


def test_flat_copies_have_at_least_as_many_flop_and_little_more() -> None:
    levels, flat = work.measure(["cifar10_cpu"], flat=True)
    assert levels["levels"] == "1/2/4/6"
    assert flat["levels"] == "6"
    assert levels["loss"] == pytest.approx(4 * flat["loss"], rel=0.05)  # only the last level has the covariance term
    assert 0 <= flat["over first, %"] < 3
    cells = work.measure(["forms"])
    assert [row["configuration"] for row in cells][:2] == ["flat", "flat, larger predictor"]
    assert cells[0]["over first, %"] is None
    assert cells[1]["over first, %"] > 5


def test_additional_levels_are_compared_with_a_flat_model(tmp_path: Path) -> None:
    rows = figures(level_cost.main, tmp_path / "levels.json")["level_cost"]
    assert [row["levels"] for row in rows] == [2, 3]
    # With a shared predictor an additional level adds a head and widens the input.
    assert 0 < rows[0]["extra FLOP, %"] < rows[1]["extra FLOP, %"] < 10


def test_variants_report_consistent_speeds(tmp_path: Path) -> None:
    written = figures(variants.main, tmp_path / "variants.json", "--variants", "float32", "bfloat16")
    plain, half = written["variants"]
    assert plain["over first"] == 1
    for row in (plain, half):
        assert row["images/s"] == pytest.approx(written["images_per_step"] * 1e3 / row["ms"])
        assert row["first steps, s"] > 0
    assert written["tokens"]["target"] == 64


def test_gpu_benchmark_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = figures(gpu.main, tmp_path / "gpu.json", "--device", "cpu", "--variants", "float32")["gpu"]
    assert list(written) == list(gpu.CASES)
    for case in written.values():
        assert sum(row["share"] for row in case["kernels"]) <= 1
        assert "attention" in case["attention"]
    # Which of the nested attention operators takes the most time varies from run to run.
    assert re.search(r"attention by aten::_?scaled_dot_product", capsys.readouterr().out)


def test_all_runs_every_measurement_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything.main(["--short", "--json-dir", str(tmp_path), "--only", "masks"])
    assert [file.name for file in tmp_path.iterdir()] == ["masks.json"]
    assert "1 of 1 done" in capsys.readouterr().out
    modules = {task.module for task in everything.TASKS.values()}
    folder = Path(everything.__file__).parent
    own = {file.stem for file in folder.glob("*.py") if "def main(" in file.read_text(encoding="utf-8")}
    # The rest do not measure speed.
    assert {f"benchmarks.{name}" for name in own} - modules == {
        f"benchmarks.{name}"
        for name in (
            "all",
            "tables",
            "figure",
            "cell_cost",
            "damaged_checkpoints",
            "kill_resume",
            "scaling_checks",
            "scaling_model",
            "selection_bias",
            "shapes_difficulty",
            "online_ranking",
            "side_by_side",
            "six_runs",
            "two_nodes",
            "work",
            "world_size",
        )
    }


def test_every_measurement_of_all_has_a_published_table() -> None:
    files = {*speed.STEPS, *speed.ROWS}
    # The GPU measurements are not run on every machine.
    assert set(everything.TASKS) - files == {"gpu"}
    assert files <= set(everything.TASKS)
