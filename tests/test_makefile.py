"""`make quickstart` prints a message before every slow command without output."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUIET = ("-m venv", "pip install --quiet", "--quiet --editable", "hjepa train")


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_slow_steps_of_make_quickstart_are_announced(tmp_path: Path) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "quickstart", f"VENV={tmp_path / 'environment'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for part in QUIET:
        slow = next(place for place, line in enumerate(planned) if part in line and "echo" not in line)
        assert "echo " in planned[slow - 1], f"nothing is said before: {planned[slow]}"
