"""What a run uses of its machine, and that the records say it."""

from __future__ import annotations

import mmap
import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from tests.conftest import Run

from hjepa.runtime.usage import Usage

CPU = torch.device("cpu")


def test_memory_grows_with_what_is_held(tmp_path: Path) -> None:
    usage = Usage(tmp_path, CPU)
    before = usage.read()["system/ram_gb"]
    # A mapping of its own: memory that the process has freed and kept could hold a normal object.
    held = mmap.mmap(-1, 200_000_000)
    for _ in range(200):
        held.write(b"x" * 1_000_000)
    assert usage.read()["system/ram_gb"] - before == pytest.approx(0.2, abs=0.03)
    assert len(held) == 200_000_000


def test_processor_time_is_that_since_the_last_call(tmp_path: Path) -> None:
    usage = Usage(tmp_path, CPU)
    started, spent = time.perf_counter(), time.process_time()
    while time.process_time() - spent < 0.3:
        sum(range(1000))
    share = 0.3 / (time.perf_counter() - started)
    assert usage.read()["system/cpu_cores"] == pytest.approx(share, abs=0.15)
    time.sleep(0.2)
    assert usage.read()["system/cpu_cores"] < 0.5


def _hold(ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    held = bytearray(b"x" * 100_000_000)
    ready.set()
    done.wait(30)
    assert held


def test_data_workers_count(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    usage = Usage(tmp_path, CPU)
    before = usage.read()["system/ram_gb"]
    worker = context.Process(target=_hold, args=(ready, done))
    worker.start()
    ready.wait(30)
    assert usage.read()["system/ram_gb"] > before + 0.09
    done.set()
    worker.join()
    assert set(usage.read()) >= {"system/ram_gb", "system/cpu_cores"}


def test_a_folder_that_is_gone_costs_its_number_alone(tmp_path: Path) -> None:
    values = Usage(tmp_path / "missing", CPU).read()
    assert "system/disk_free_gb" not in values
    assert "system/ram_gb" in values


def test_every_record_says_it(run: Run) -> None:
    for record in run({"training.max_steps": 2}).records:
        assert 0 < record["system/ram_gb"] < 1000
        assert 0 <= record["system/ram_used"] <= 1
        assert 0 <= record["system/cpu_used"] <= 1
        assert record["system/cpu_cores"] >= 0
        assert record["system/disk_free_gb"] > 0
        assert "system/gpu_memory_gb" not in record
