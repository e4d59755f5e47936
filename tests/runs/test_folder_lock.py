"""The lock of a run folder with forked workers; the other cases are in tests/training/test_guards.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hjepa.errors import UserError
from hjepa.runs.lock import FolderLock

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from hjepa.runs.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_worker_that_outlives_its_killed_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_AND_FORK, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"in use by process {process.pid} on "), FolderLock(tmp_path):
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # it still runs
        with FolderLock(tmp_path):
            pass
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)
