"""File names that are not valid text are written to the log as escapes, in every encoding."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest
from tests.conftest import TINY
from tests.data.image_files import encode, noise

import hjepa
from hjepa.training.loggers import LogFile

log = logging.getLogger("hjepa")


def uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest from capturing the log of this test: its workers cannot send such names to the main process."""
    for logger in (logging.getLogger(), log):
        monkeypatch.setattr(logger, "handlers", [])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_undecodable_file_names_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], encoding: str
) -> None:
    uncaptured(monkeypatch)
    content = io.BytesIO()
    console = io.TextIOWrapper(content, encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", console)
    with LogFile(tmp_path / "training.log"):
        log.warning("skipped %s: %s", "caf\udce9.png", "größer")
    monkeypatch.undo()
    assert "skipped caf\\udce9.png: größer" in (tmp_path / "training.log").read_text(encoding="utf-8")
    assert b"skipped caf\\udce9.png: gr" in content.getvalue()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_a_run_with_undecodable_file_names_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    uncaptured(monkeypatch)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(8):
            (tmp_path / "set" / name / f"{index}.png").write_bytes(encode(noise(index)))
    with open(os.fsencode(tmp_path / "set" / "a") + b"/caf\xe9.png", "wb"):  # noqa: PTH123 (paths are text)
        pass
    (tmp_path / "set" / "a").rename(os.fsdecode(os.fsencode(tmp_path / "set") + b"/\xe9"))
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xe9"))
    keys = {"data.dataset": "folder", "data.data_path": str(tmp_path / "set"), "data.subset": None}
    result = hjepa.train(
        TINY, output_dir=home, overrides={**keys, "training.epochs": 1, "evaluation.final": True}, console=True
    )
    assert (home / "report.html").is_file()
    assert result.results["train_images"] > 0
    assert r"skipped \udce9/caf\udce9.png: empty file" in (home / "training.log").read_text(encoding="utf-8")
    assert "Traceback" not in capfd.readouterr().err
