"""File locks between real processes: only one holds a lock, and it is released when that process ends."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hjepa.runtime.file_lock import alone_at, exclusive

COUNT = """
import sys
from pathlib import Path
from hjepa.runtime.file_lock import exclusive
counter = Path(sys.argv[1])
for _ in range(50):
    with exclusive(counter.with_name("lock")):
        counter.write_text(str(int(counter.read_text()) + 1))
"""

HOLD = """
import sys, time
from pathlib import Path
from hjepa.runtime.file_lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from hjepa.runtime.file_lock import exclusive
with exclusive(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(600)
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def taken(path: Path) -> threading.Event:
    """Set once the thread that waits for the lock has acquired it."""
    had = threading.Event()

    def take() -> None:
        with exclusive(path):
            had.set()

    threading.Thread(target=take, daemon=True).start()
    return had


def test_processes_take_turns(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [start(COUNT, counter) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "150"


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = start(HOLD, path)
    try:
        assert said(process) == "held"
        had = taken(path)
        assert not had.wait(0.3)
    finally:
        process.kill()
        process.wait()
    assert had.wait(30)
    assert path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_that_outlives_its_killed_parent_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = start(HOLD_AND_FORK, path)
    child = int(said(process))
    try:
        had = taken(path)
        assert not had.wait(0.3)
        process.kill()
        process.wait()
        os.kill(child, 0)  # it still runs
        assert had.wait(30)
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_threads_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path):
        had = taken(path)
        assert not had.wait(0.3)
    assert had.wait(30)


def test_waiting_for_a_data_set_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hjepa")
    process = start(HOLD, tmp_path / ".set.lock")
    assert said(process) == "held"

    def wait() -> None:
        with alone_at(tmp_path / "set"):
            pass

    waiter = threading.Thread(target=wait)
    waiter.start()
    waiter.join(0.5)
    assert waiter.is_alive()
    process.kill()
    process.wait()
    waiter.join(30)
    assert not waiter.is_alive()
    assert caplog.text.count("waiting for another process that is fetching the data set") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_a_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / "lock"):
        pass
    assert "the file system does not support locks" in caplog.text


def test_a_missing_folder_is_refused_or_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), exclusive(tmp_path / "file" / "lock"):
        pass
    # A folder that cannot be created cannot be filled by another process either, so there is nothing to wait for.
    with alone_at(tmp_path / "file" / "set"):
        pass
