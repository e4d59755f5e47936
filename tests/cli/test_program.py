"""The command line as a user sees it.

Most calls run in this process, since importing PyTorch again takes seconds. Tests of how a process starts and exits
start a new one.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.conftest import TINY

from hjepa.cli.arguments import normalise, split
from hjepa.cli.main import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program in a new process."""
    command = [sys.executable, "-m", "hjepa", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=300)


def hjepa(*arguments: str, cwd: Path | None = None, verb: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program's `main` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), chdir(cwd or Path.cwd()):
        try:
            main(arguments, verb=verb)
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), err.getvalue())


def script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that wraps one command, in this process."""
    assert f'verb="{name}"' in (ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    return hjepa(*arguments, cwd=cwd, verb=name)


def tiny_file(folder: Path, **sections: object) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, **sections}))
    return file


def test_help_lists_every_command_and_is_plain_in_a_pipe() -> None:
    result = process("--help")
    assert result.returncode == 0
    for verb in ("train", "evaluate", "visualize", "data", "config", "bench", "doctor"):
        assert verb in result.stdout
    assert not set("│╭╰─") & set(result.stdout)


def test_version_and_doctor() -> None:
    from hjepa import __version__

    assert hjepa("--version").stdout.strip() == f"hjepa {__version__}"
    result = hjepa("doctor")
    assert result.returncode == 0
    for word in ("torch", "cpu threads", "use_amp=auto", "disk here", "no problems found"):
        assert word in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "training.lrr=1"), "did you mean training.lr?"),
        (("train", "--config", "quickstrt"), "did you mean quickstart?"),
        (("train", "--device", "tpu"), "device"),
        (("train", "--device", "cuda:99"), "device"),
        (("train", "--resume", "nowhere.pth"), "nowhere.pth"),
        (("train", "data.dataset=folder", "data.data_path=nowhere"), "nowhere"),
        (("train", "data.dataset=cifar100", "data.download=false", "data.data_path=nowhere"), "data.download"),
        (("train", "masking.num_masks=40"), "masking"),
        (("train", "data.batch_size=4"), "data.batch_size"),
        (("evaluate", "--checkpoint", "nowhere"), "nowhere"),
        (("evaluate",), "--checkpoint"),
        (("evaluate", "--checkpoint", "x", "--k-values", "1", "two"), "two"),
        (("visualize", "--checkpoint", "nowhere"), "nowhere"),
        (("config", "check", "training.lr=-1"), "training.lr"),
        (("data", "check", "--dataset", "folder", "--data-path", "nowhere"), "nowhere"),
        (("bench", "training.lr=fast"), "training.lr"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = hjepa(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("hjepa: ")
    assert words in lines[0]
    assert "Traceback" not in result.stderr


def test_the_process_exits_with_code_2_after_a_user_error(tmp_path: Path) -> None:
    result = process("train", "training.lrr=1", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("hjepa: ")
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_option_or_command_exits_with_code_2() -> None:
    for arguments in (("train", "--learning-rate", "1"), ("trian",)):
        result = hjepa(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


def test_train_resume_evaluate_and_report(tmp_path: Path) -> None:
    config = tiny_file(tmp_path)
    run = tmp_path / "run"
    first = process("train", "--config", str(config), "--output-dir", str(run), "--max-steps", "4", "--seed", "3")
    assert first.returncode == 0, first.stderr
    assert "level/chance" in first.stdout
    assert not (run / "results.json").exists(), "a run cut short by --max-steps is not evaluated"
    typed = json.loads((run / "environment.json").read_text())["command"]
    assert typed.startswith("python -m hjepa train --config ")
    again = hjepa("train", "--output-dir", str(run), "--resume", "auto", "evaluation.final=true")
    assert again.returncode == 0, again.stderr
    assert "resuming from step 4" in again.stdout
    results = json.loads((run / "results.json").read_text())
    for kind in ("linear_probe", "knn"):
        for who in ("trained", "untrained", "pixels"):
            assert 0 <= results[kind][who] <= 1
        assert len(results[kind]["levels"]) == 2
    assert (run / "report.html").stat().st_size < 8e6
    done = hjepa("train", "--output-dir", str(run), "--resume", "auto", "evaluation.final=true")
    assert done.returncode == 0
    assert "nothing left to do" in done.stdout
    evaluated = hjepa(
        "evaluate", "--checkpoint", str(run), "--k-values", "1", "5", "--output", str(tmp_path / "r.json")
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert set(json.loads((tmp_path / "r.json").read_text())["knn"]["by_k"]) == {"1", "5"}
    drawn = hjepa(
        "visualize", "--checkpoint", str(run / "checkpoints" / "last.pth"), "--output-dir", str(tmp_path / "v")
    )
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "v" / "curves.png").is_file()


def test_the_scripts_accept_their_documented_options(tmp_path: Path) -> None:
    config = tiny_file(tmp_path)
    run = tmp_path / "out"
    flags = ("--config", str(config), "--device", "cpu", "--output_dir", str(run), "--epochs", "1")
    trained = script("train", *flags, "training.lr=5e-4", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    evaluated = script(
        "evaluate", "--checkpoint", str(run / "checkpoints" / "best_model.pth"), "--dataset", "shapes", "--eval_type", "knn",
        "--k_values", "1", "5", "10", "--hierarchy_levels", "0", "1", "--batch_size", "32", "--device", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    drawn = script(
        "visualize", "--checkpoint", str(run), "--output-dir", str(tmp_path / "v"), "--generate-report", cwd=tmp_path
    )
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "v" / "report.html").is_file()
    resumed = script(
        "train",
        *flags[:-1],
        "2",
        "--resume",
        str(run / "checkpoints" / "last.pth"),
        "training.resume_schedule=stretch",
        cwd=tmp_path,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "training.epochs 1 -> 2" in resumed.stdout


def test_a_folder_with_unreadable_images_finishes_and_names_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(40):
        size = (20 + index, 30 + index % 7)
        grey = random.integers(0, 256, size, dtype=np.uint8)
        colour = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        kind = index % 5
        if kind == 0:
            Image.fromarray(grey).save(folder / f"{index}.png")
        elif kind == 1:
            Image.fromarray(colour).convert("P").save(folder / f"{index}.png")
        elif kind == 2:
            Image.fromarray(np.dstack([colour, grey])).save(folder / f"{index}.png")
        elif kind == 3:
            Image.fromarray(grey.astype(np.uint16) * 257).save(folder / f"{index}.png")
        else:
            Image.fromarray(colour).save(folder / f"{index}.jpg")
    whole = (folder / "4.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("this is no picture")
    data = {**TINY["data"], "dataset": "folder", "data_path": str(folder), "subset": None, "batch_size": 8}
    config = tiny_file(tmp_path, data=data, evaluation={"final": True, "eval_frequency": 1, "online_images": 24})
    result = hjepa("train", "--config", str(config), "--output-dir", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert "truncated.jpg" in result.stdout
    assert "text.jpg" in result.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["linear_probe"]["skipped"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_config_commands(tmp_path: Path) -> None:
    assert "quickstart" in hjepa("config", "list").stdout
    shown = hjepa("config", "show", "quickstart", "training.epochs=7")
    assert yaml.safe_load(shown.stdout)["training"]["epochs"] == 7
    checked = hjepa("config", "check", str(ROOT / "configs" / "cpu_cifar10.yaml"))
    assert "196 tokens (14x14)" in checked.stdout
    assert "level 1" in checked.stdout
    assert json.loads(hjepa("config", "schema").stdout)["properties"]["model"]
    reference = hjepa("config", "show", "--reference").stdout
    assert reference == (ROOT / "docs" / "configuration.md").read_text(), "run `hjepa config show --reference` again"


def test_bench_reports_and_writes_json(tmp_path: Path) -> None:
    config = tiny_file(tmp_path)
    result = hjepa("bench", "--config", str(config), "--seconds", "0.2", "--json", str(tmp_path / "bench.json"))
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["images_per_second"] > 0
    assert written["flop_per_image"] == pytest.approx(sum(written["flop_share"].values()))
    assert written["achieved_flops"] == pytest.approx(written["images_per_second"] * written["flop_per_image"])
    assert 0 < written["peak_share"] < 1
    assert written["tokens"]["target"] == 16
    assert "share of peak" in result.stdout
    synthetic = hjepa("bench", "--config", str(config), "--seconds", "0.2", "--synthetic")
    assert "random pictures" in synthetic.stdout


def test_every_public_name_can_be_imported() -> None:
    import hjepa as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = package.trian


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["evaluate", "--k_values", "1", "5", "10"], ["evaluate", "--k-values", "1,5,10"]),
        (["evaluate", "--k-values=1,5"], ["evaluate", "--k-values=1,5"]),
        (["evaluate", "--k-values", "1", "--k-values", "5"], ["evaluate", "--k-values", "1", "--k-values", "5"]),
        (["x", "--k-values", "1", "2", "data.subset=3"], ["x", "--k-values", "1,2", "data.subset=3"]),
        (["train", "--output_dir=a_b", "model.embed_dim=3"], ["train", "--output-dir=a_b", "model.embed_dim=3"]),
    ],
)
def test_arguments_are_normalised(given: list[str], expected: list[str]) -> None:
    assert normalise(given) == expected


def test_values_may_be_separated_by_commas_or_repeated() -> None:
    assert split(["1,5", "10 20"]) == ["1", "5", "10", "20"]
    assert split(None) == []
