"""The command `hjepa ablate`: its output, exit codes and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import TINY

from hjepa.cli.main import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["ablate", *arguments])
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(TINY))
    tree: dict[str, Any] = {
        "title": "Rates",
        "base": str(tmp_path / "base.yaml"),
        "overrides": {"training.epochs": 1, "evaluation.train_images": 60, "evaluation.test_images": 60},
        "seeds": [0],
        "grid": {"training.lr": [0.001, 0.002]},
    }
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_study_from_plan_to_table(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, str(study), "--dry-run")
    assert code == 0
    assert "lr=0.002" in out
    assert not (tmp_path / "out").exists()
    code, out, _ = call(capsys, str(study), "--output-dir", str(tmp_path / "out"))
    assert code == 0
    assert "lr=0.002" in out
    assert "wrote" in out
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| lr=0.001 | 1 | 96 |" in table
    # The written study repeats itself.
    code, out, _ = call(capsys, str(tmp_path / "out" / "study.yaml"), "--output-dir", str(tmp_path / "out"))
    assert code == 0


def test_the_written_study_repeats_keys_of_the_command_line(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, _ = call(capsys, str(study), "training.lr=0.003", "training.clip_grad=0.5", "--output-dir", str(first))
    assert code == 0
    code, _, _ = call(capsys, str(first / "study.yaml"), "--output-dir", str(second))
    assert code == 0
    for lr in ("0.001", "0.002"):
        place = Path("cells") / f"lr={lr}" / "seed_0" / "config.yaml"
        trained = [yaml.safe_load((folder / place).read_text()) for folder in (first, second)]
        assert trained[0] == trained[1]
        assert (trained[0]["training"]["lr"], trained[0]["training"]["clip_grad"]) == (0.003, 0.5)


def test_an_error_that_stops_a_run_stops_the_study(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A file is in the place of a run folder.
    (tmp_path / "out" / "cells").mkdir(parents=True)
    (tmp_path / "out" / "cells" / "lr=0.002").write_text("")
    code, out, err = call(capsys, str(study), "--output-dir", str(tmp_path / "out"))
    assert code == 2
    assert "lr=0.002" in err
    assert "Traceback" not in err
    assert "wrote" not in out
    # What was done before stays.
    assert "| lr=0.001 | 1 | 96 |" in (tmp_path / "out" / "results.md").read_text()


def test_studies_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--list")
    assert code == 0
    assert "levels " in out
    assert "4 cells x 5 seeds" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "STUDY: missing"),
        (["levls"], "did you mean levels"),
        (["levels", "--seeds", "x"], "--seeds: 'x'"),
        (["levels", "--seeds", "²"], "--seeds: '²'"),
        (["levels", "--seeds", "0,0", "--dry-run"], "duplicate seed"),
        (["levels", "--dry-run", "--base", "quikstart"], "did you mean quickstart"),
        (["levels", "--dry-run", "seed=7"], "choose them with --seeds"),
        (["levels", "--dry-run", "training.lr=fast", "data.subset=256"], "training.lr: invalid value 'fast'"),
        (["levels", "--dry-run", "--cells", "five levels", "data.subset=256"], "'five levels' is not a cell"),
    ],
)
def test_user_errors_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert words in err
    assert all(line.startswith("hjepa: ") for line in err.splitlines())
    assert "Traceback" not in err
