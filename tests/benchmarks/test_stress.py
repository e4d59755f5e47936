"""The stress tests of checkpoints and resuming run with `--short` and report no failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def report(name: str, folder: Path) -> dict[str, dict[str, int]]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--short", "--json", str(folder / "report.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return dict(json.loads((folder / "report.json").read_text()))


def test_damaged_checkpoints_are_detected_and_the_previous_one_is_used(tmp_path: Path) -> None:
    seen = report("damaged_checkpoints", tmp_path)
    assert not seen["failures"]
    total = seen["total"]
    assert total["files"] == total["noticed"] == total["one_before_found"] == 18
    assert total["trained_on"] == total["equal"] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked after the imports")
def test_killed_and_resumed_runs_equal_uninterrupted_ones(tmp_path: Path) -> None:
    seen = report("kill_resume", tmp_path)
    assert not seen["failures"]
    assert seen["total"]["runs"] == seen["total"]["equal"] == 2
    assert seen["total"]["kills"] >= 1
