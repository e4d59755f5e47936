"""The training loop trains methods defined outside hjepa; methods are found by name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import TINY, Run, tiny_config
from tests.methods.two_views import TwoViews

import hjepa
from hjepa.cli.main import main
from hjepa.errors import UserError
from hjepa.evaluation import evaluate
from hjepa.methods import HJepa, IJepa, StepOutput, build_method, find_method, method_names, register
from hjepa.methods.method import RESERVED, SYSTEM
from hjepa.training import load_run

KEYS: dict[str, Any] = {"method": "two_views", "training.epochs": 4, "data.subset": 192}


def test_another_method_is_trained_resumed_evaluated_and_loaded(run: Run) -> None:
    whole = run(KEYS)
    assert whole.outcome.completed
    record = whole.records[-1]
    assert {"invariance", "variance", "covariance", "spread", "loss", "grad_norm"} <= record.keys()
    assert "momentum" not in record
    assert whole.records[0]["loss"] > record["loss"]
    part = run({**KEYS, "training.max_steps": 17})
    resumed = run(KEYS, folder=part.folder, resume="auto")
    for name, value in whole.state["model_state_dict"].items():
        assert torch.equal(value, resumed.state["model_state_dict"][name]), name
    # Buffers are part of the checkpoint.
    assert whole.state["model_state_dict"]["centre"].abs().sum() > 0
    loaded = load_run(whole.folder, device="cpu")
    assert isinstance(loaded.method, TwoViews)
    results = evaluate(whole.folder, eval_type="knn", device="cpu", controls=("untrained",))
    assert 0 <= results["knn"]["trained"] <= 1
    encoder = hjepa.load_pretrained(whole.folder)
    assert encoder.embed(torch.zeros(2, 3, 20, 16, dtype=torch.uint8)).shape == (
        2,
        encoder.embed_dim * encoder.num_levels,
    )
    with pytest.raises(UserError, match="no predictor over masks"):
        _ = loaded.model


def test_training_another_method_ends_with_results_figures_and_a_report(tmp_path: Path) -> None:
    probes = {"evaluation.final": True, "evaluation.train_images": 60, "evaluation.test_images": 60}
    # A momentum that ends at 1, which advice must not mention: this method has no moving average.
    keys = {**KEYS, "training.epochs": 1, "data.subset": 96, "model.ema.momentum_end": 1.0, **probes}
    result = hjepa.train(tiny_config(keys), output_dir=tmp_path / "run", console=False)
    assert {"trained", "untrained", "pixels"} <= result.results["linear_probe"].keys()
    figures = {path.name for path in (result.run_dir / "figures").iterdir()}
    assert {"curves.png", "health.png", "maps.png", "neighbours.png", "embedding.png"} <= figures
    assert "masks.png" not in figures
    page = (result.run_dir / "report.html").read_text(encoding="utf-8")
    assert "Method <code>two_views</code> predicts no masked regions" in page
    assert "<dt>Method</dt><dd>two_views</dd>" in page
    assert "2 random crops of 0.3 to 1 of the area per image" in page
    assert "Linear probe, %" in page
    for term in (
        "<dt>Predictor",
        "<dt>Masks",
        "<dt>Objective",
        ">Predicted<",
        "EMA momentum",
        "target encoder",
        "mean target",
    ):
        assert term not in page, term


def test_the_loss_does_not_depend_on_how_the_views_are_decoded(run: Run) -> None:
    keys = {**KEYS, "training.max_steps": 2, "data.augmentation.horizontal_flip": False}
    device = run({**keys, "data.storage": "device"}).records[0]["loss"]
    workers = run({**keys, "data.storage": "workers"}).records[0]["loss"]
    assert device == pytest.approx(workers, rel=0.05)


def test_a_method_class_can_be_given_by_its_import_path(run: Run) -> None:
    seen = run({**KEYS, "method": "tests.methods.two_views:TwoViews", "training.max_steps": 1})
    assert seen.outcome.step == 1


def test_ijepa_is_one_level(run: Run) -> None:
    seen = run({"method": "ijepa", "training.max_steps": 2})
    assert "loss/level_0" in seen.records[0]
    assert "loss/level_1" not in seen.records[0]
    same = run({"method": "hjepa", "model.num_hierarchies": 1, "training.max_steps": 2})
    assert [r["loss"] for r in seen.records] == [r["loss"] for r in same.records]


BROKEN = {
    "unfinished": "class X(\n",
    "raises": "value = 1\nraise RuntimeError('no licence\\nsecond line')\n",
    "needs": "import nothing_like_it\n",
    "leaves": "import sys\nsys.exit('good bye')\n",
    "empty": "from hjepa.methods import Method\nclass Empty(Method): ...\n",
}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hjep", "did you mean hjepa"),
        ("nothing.like:It", "no module nothing on PYTHONPATH or in the current directory {here}"),
        ("tests.methods.nothing:It", "no module tests.methods.nothing on PYTHONPATH"),
        ("tests.methods.two_views:TwoView", "did you mean tests.methods.two_views:TwoViews?"),
        ("tests.methods.two_views:Config", "is not a subclass of hjepa.methods.Method"),
        (".two_views:TwoViews", "is not a module and a class"),
        (":TwoViews", "is not a module and a class"),
        ("two_views:", "is not a module and a class"),
        ("hjepa.methods:Method", "does not define encoder, forward"),
        ("empty:Empty", "does not define encoder, forward"),
        ("unfinished:X", "SyntaxError: '(' was never closed ({here}/unfinished.py, line 1)"),
        ("raises:X", "RuntimeError: no licence ({here}/raises.py, line 2)"),
        ("needs:X", "ModuleNotFoundError: No module named 'nothing_like_it' ({here}/needs.py, line 1)"),
        ("leaves:X", "SystemExit: good bye ({here}/leaves.py, line 2)"),
    ],
)
def test_a_method_that_cannot_be_used_is_a_one_line_error(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, text in BROKEN.items():
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError) as error:
        find_method(name)
    assert says.format(here=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_program_finds_a_method_in_the_current_directory_before_it_reads_images(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "two_views.py", tmp_path / "neighbour.py")
    (tmp_path / "own.py").write_text("from neighbour import TwoViews\nclass Own(TwoViews): ...\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    keys = ["data.dataset=folder", "data.data_path=missing", "training.use_amp=false"]
    # As the installed program starts: without the current directory on the path.
    program = [sys.executable, "-P", "-c", "from hjepa.cli.main import main; main()"]
    for name, says in (("own:Own", "missing"), ("bad:Own", f"ZeroDivisionError: division by zero ({tmp_path}/bad.py")):
        command = [*program, "train", "--config", "quickstart", f"method={name}", *keys]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 2, ended.stderr
        assert says in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_ijepa_with_several_levels_is_refused() -> None:
    with pytest.raises(UserError, match="method: ijepa has one level"):
        IJepa.check(tiny_config({"method": "ijepa", "model.num_hierarchies": 2}), 1)


def test_a_method_name_can_be_registered_only_once() -> None:
    assert {"hjepa", "ijepa", "two_views"} <= set(method_names())
    with pytest.raises(ValueError, match="already"):
        register("hjepa")(TwoViews)


def test_cost_is_counted_without_weights_and_grows_with_the_model() -> None:
    small = HJepa.cost(tiny_config(), 3)
    large = HJepa.cost(tiny_config({"model.embed_dim": 64}), 3)
    assert small.total < large.total
    assert TwoViews.cost(tiny_config(), 3) is None


def program(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


def test_commands_leave_out_flop_that_a_method_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, results = tmp_path / "base.yaml", tmp_path / "bench.json"
    base.write_text(yaml.safe_dump({**TINY, "method": "two_views"}))
    code, out, err = program(capsys, "config", "check", str(base))
    assert (code, err) == (0, "")
    assert "FLOP are not counted by method two_views" in out
    assert "predicted" not in out
    code, out, _ = program(
        capsys, "bench", "--config", str(base), "--synthetic", "--seconds", "0.1", "--json", str(results)
    )
    assert code == 0
    assert re.search(r"FLOP per image +not counted by method two_views", out)
    assert "share of peak" not in out
    assert json.loads(results.read_text())["flop_per_image"] is None


def test_a_study_of_a_method_without_flop_needs_equal_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**TINY, "method": "two_views"}))
    study, file = {"title": "Rates", "base": str(tmp_path / "base.yaml"), "seeds": [0]}, tmp_path / "study.yaml"
    grid = {"training.lr": [0.001, 0.002]}
    file.write_text(yaml.safe_dump({**study, "grid": grid}))
    code, out, _ = program(capsys, "ablate", str(file), "--dry-run")
    assert code == 0
    assert re.search(r"lr=0.002 +0 +192 +- +-$", out, flags=re.MULTILINE)
    file.write_text(yaml.safe_dump({**study, "grid": grid, "budget": "flop"}))
    code, _, err = program(capsys, "ablate", str(file), "--dry-run")
    assert code == 2
    assert "method two_views does not count its FLOP, which budget: flop needs" in err
    assert err.count("\n") == 1


def test_a_report_of_a_skipped_update_names_the_stage(run: Run) -> None:
    method = build_method(tiny_config(KEYS))
    assert isinstance(method, TwoViews)

    def spoil(module: Any, args: Any, output: Any) -> Any:
        return output * float("nan") if isinstance(module, torch.nn.Sequential) and module.training else output

    handle = torch.nn.modules.module.register_module_forward_hook(spoil)
    try:
        with pytest.raises(UserError, match="not finite"):
            run({**KEYS, "training.non_finite": "stop"})
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["loss", "step", "lr", "system/ram_gb"])
def test_a_method_cannot_replace_what_the_loop_records(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"cannot record '{name}': the name is reserved"):
        StepOutput(torch.zeros(()), {name: torch.zeros(())})
    monkeypatch.setattr(TwoViews, "diagnostics", lambda _: {name: torch.zeros(())})
    with pytest.raises(ValueError, match="reserved"):
        run({**KEYS, "training.max_steps": 1})


def test_what_the_loop_records_is_reserved_and_nothing_of_the_method_is_lost(run: Run) -> None:
    seen = run({**KEYS, "training.max_steps": 1}).records[0]
    assert {k for k in seen.keys() - RESERVED if not k.startswith(SYSTEM)} == {
        "invariance",
        "variance",
        "covariance",
        "spread",
    }


def test_the_records_of_a_method_are_json(run: Run) -> None:
    seen = run({**KEYS, "training.max_steps": 1})
    assert json.loads(json.dumps(seen.records)) == seen.records
