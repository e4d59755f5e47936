"""Which folder a resumed run writes to: its own or a new one, never that of another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Observed, Run, tiny_config

from hjepa.errors import UserError
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.training import run_training

SHORT: dict[str, Any] = {"training.max_steps": 2}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def identity(seen: Observed) -> str:
    return str(json.loads((seen.folder / "environment.json").read_text())["run"])


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_another_run_is_refused_and_left_alone(run: Run, finished: bool) -> None:
    given = run({"method": "ijepa"} if finished else SHORT)
    other = run({**SHORT, "seed": 1})
    before = contents(other.folder)
    keys = {"method": "ijepa"} if finished else {}
    with pytest.raises(UserError, match="holds another run than") as error:
        run(keys, folder=other.folder, resume=str(given.folder))
    said = str(error.value)
    assert "\n" not in said
    assert f"{other.folder}: " in said
    assert f"--output-dir {given.folder} to continue" in said
    assert contents(other.folder) == before
    assert run({"seed": 1, "training.max_steps": 3}, folder=other.folder, resume="auto").outcome.step == 3


def test_an_old_folder_without_an_identity_is_refused_too(run: Run) -> None:
    given, other = run(SHORT), run({**SHORT, "seed": 1})
    (other.folder / "environment.json").unlink()
    with pytest.raises(UserError, match="holds another run than"):
        run(folder=other.folder, resume=str(given.folder))


@pytest.mark.parametrize("what", [".", "checkpoints", "checkpoints/last.pth"])
def test_without_an_output_folder_a_run_continues_in_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    part = run(SHORT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = run_training(tiny_config({"training.max_steps": 3}), resume=part.folder / what, console=False)
    assert outcome.run_dir.resolve() == part.folder.resolve()
    assert outcome.step == 3
    assert not list(Path().iterdir())
    assert "continuing in" in (part.folder / "training.log").read_text()
    assert read_checkpoint(part.folder / "checkpoints" / "last.pth")["run"] == identity(part)


def test_without_an_output_folder_a_run_with_separate_checkpoints_continues_in_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = {"checkpoint.checkpoint_dir": str(tmp_path / "kept"), "logging.experiment_name": "first"}
    run_training(tiny_config({**SHORT, **keys}), console=False)
    for number, given in enumerate((Path("runs/first"), tmp_path / "kept" / "last.pth")):
        later = {**keys, "training.max_steps": 3 + number, "logging.experiment_name": "second"}
        outcome = run_training(tiny_config(later), resume=given, console=False)
        assert outcome.run_dir == Path("runs/first")
        assert outcome.checkpoint == tmp_path / "kept" / "last.pth"
        assert outcome.step == 3 + number


def test_a_given_log_dir_is_where_a_resumed_run_branches_off(run: Run, tmp_path: Path) -> None:
    part = run(SHORT)
    config = tiny_config({"training.max_steps": 3, "logging.log_dir": str(tmp_path / "branch")})
    assert run_training(config, resume=part.folder, console=False).run_dir == tmp_path / "branch"
    # The same command again would write over the branch.
    with pytest.raises(UserError, match="--resume auto"):
        run_training(config, resume=part.folder, console=False)


def test_a_moved_run_continues_where_it_is(tmp_path: Path) -> None:
    keys = {"logging.log_dir": str(tmp_path / "first")}
    run_training(tiny_config({**SHORT, **keys}), console=False)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    outcome = run_training(
        tiny_config({"training.max_steps": 3, **keys}), resume=str(tmp_path / "moved"), console=False
    )
    assert outcome.run_dir == tmp_path / "moved"
    assert not (tmp_path / "first").exists()


def test_a_branch_is_a_run_of_its_own(run: Run) -> None:
    part = run(SHORT)
    before = contents(part.folder)
    branch = run({"training.max_steps": 3}, resume=str(part.folder))
    assert identity(branch) != identity(part)
    assert contents(part.folder) == before
    assert [record["step"] for record in branch.records] == [3]
    again = run({"training.max_steps": 4}, folder=branch.folder, resume="auto")
    assert again.outcome.step == 4


def test_a_finished_run_is_not_resumed_into_a_new_folder(run: Run, tmp_path: Path) -> None:
    whole = run()
    with pytest.raises(UserError, match=r"already finished at step 12, nothing is left to train") as error:
        run(folder=tmp_path / "new", resume=str(whole.folder))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new" / "config.yaml").exists()
    assert run_training(tiny_config(), resume=whole.folder, console=False).already_done


def test_a_refused_resume_changes_neither_description_nor_records(run: Run) -> None:
    part = run({**SHORT, "checkpoint.save_every_steps": 1})
    first = part.folder / "checkpoints" / "checkpoint_step_1.pth"
    before = contents(part.folder)
    with pytest.raises(UserError, match="optimi"):
        run({"training.optimizer": "muon"}, folder=part.folder, resume=str(first))
    after = contents(part.folder)
    log = str(part.folder / "training.log")
    assert {k: v for k, v in after.items() if k != log} == {k: v for k, v in before.items() if k != log}
