"""Threads, precision and compilation are chosen once per run, from the hardware and a short trial."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests.conftest import Run, tiny_config

from hjepa.runs.locate import Start
from hjepa.runtime.threads import choose_threads, cpu_quota, physical_cores, usable_cores
from hjepa.training import precision
from hjepa.training.build import compiles
from hjepa.training.precision import Precision, mixed_precision_pays, settle_precision


def machine(root: Path, siblings: dict[int, str], groups: str = "", files: dict[str, str] | None = None) -> Path:
    """Files in which Linux describes the processors and the quotas of control groups."""
    for number, text in siblings.items():
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in (files or {}).items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    root = machine(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"})
    assert physical_cores({0, 1, 4, 5}, root) == 2
    assert physical_cores({0, 4}, root) == 1
    # Processors without topology information count as one core each.
    assert physical_cores({0, 4, 7, 8}, root) == 3
    assert physical_cores(set(), root) == 1


V2 = "0::/jobs/one\n"
V1 = "5:cpuset:/set\n4:cpu,cpuacct:/jobs/one\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (V2, {}, None),
        (V2, {"jobs/one/cpu.max": "max 100000\n"}, None),
        (V2, {"jobs/one/cpu.max": "150000 100000\n"}, 1.5),
        # The smallest quota on the path to the root applies.
        (V2, {"jobs/one/cpu.max": "max 100000\n", "jobs/cpu.max": "300000 100000\n"}, 3.0),
        # In a container its own group is the root.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (V1, {"cpu/jobs/one/cpu.cfs_quota_us": "-1\n", "cpu/jobs/one/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/jobs/one/cpu.cfs_quota_us": "50000\n", "cpu/jobs/one/cpu.cfs_period_us": "100000\n"}, 0.5),
        (V2, {"jobs/one/cpu.max": "damaged\n"}, None),
    ],
)
def test_control_group_quotas_are_read(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float | None
) -> None:
    assert cpu_quota(machine(tmp_path, {}, groups, files)) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="control groups")
def test_a_quota_caps_the_cores_and_leaves_one(tmp_path: Path) -> None:
    processors = os.sched_getaffinity(0)
    assert usable_cores(machine(tmp_path / "free", {}, V2)) == len(processors)
    # A process bound to any number of threads of one core has one core.
    one = machine(tmp_path / "siblings", dict.fromkeys(processors, ",".join(map(str, sorted(processors)))), V2)
    assert usable_cores(one) == 1
    assert usable_cores(machine(tmp_path / "narrow", {}, V2, {"cpu.max": "20000 100000"})) == 1
    assert cpu_quota(tmp_path / "no such system") is None


def test_processes_share_the_cores_and_omp_num_threads_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert choose_threads() == usable_cores()
    assert choose_threads(processes=10**6) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert choose_threads() == torch.get_num_threads()


def test_a_resumed_run_keeps_its_threads(run: Run, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        first = run({"training.max_steps": 1, "training.num_threads": 2}, folder=tmp_path / "run")
        assert (first.state["threads"], first.state["compiled"]) == (2, False)
        assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == 2
        torch.set_num_threads(1)
        again = run({"training.max_steps": 2}, folder=tmp_path / "run", resume="auto")
        assert again.state["threads"] == 2
        # environment.json must state the threads with which the run continues.
        assert json.loads((tmp_path / "run" / "environment.json").read_text())["threads"] == 2
        other = run({"training.max_steps": 3, "training.num_threads": 1}, folder=tmp_path / "run", resume="auto")
        assert other.state["threads"] == 1
    finally:
        torch.set_num_threads(before)


def test_compile_auto_follows_the_kind_of_device() -> None:
    config = tiny_config({"training.compile": "auto"})
    assert compiles(config, torch.device("cuda"), None)
    assert not compiles(config, torch.device("cpu"), None)
    assert not compiles(config, torch.device("mps"), None)
    for choice in (True, False):
        assert compiles(tiny_config({"training.compile": choice}), torch.device("cpu"), None) is choice


@pytest.mark.parametrize("choice", [True, False])
def test_a_resumed_run_keeps_the_choice_to_compile(choice: bool) -> None:
    cpu, start = torch.device("cpu"), Start(Path("last.pth"), {"step": 5, "compiled": choice})
    assert compiles(tiny_config({"training.compile": "auto"}), cpu, start) is choice
    # An explicit setting takes precedence over the stored choice.
    assert compiles(tiny_config({"training.compile": not choice}), cpu, start) is not choice
    # A checkpoint without a stored choice: the device decides.
    assert not compiles(tiny_config({"training.compile": "auto"}), cpu, Start(Path("last.pth"), {"step": 5}))


@pytest.mark.parametrize(("short", "expected"), [(1.0, False), (1.4, False), (1.6, True), (2.4, True)])
def test_precision_follows_the_processors_bf16_speed(
    short: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, auto = torch.device("cpu"), tiny_config({"training.use_amp": "auto"})
    paces = {torch.bfloat16: short * 1e11, torch.float32: 1e11}
    monkeypatch.setattr(precision, "matmul_peak", lambda _, dtype, **__: paces[dtype])
    mixed_precision_pays.cache_clear()
    assert settle_precision(auto, cpu).training.use_amp is expected
    mixed_precision_pays.cache_clear()
    for plain in (True, False):
        assert settle_precision(tiny_config({"training.use_amp": plain}), cpu).training.use_amp is plain
        # The stored choice is kept, whatever this machine would choose.
        assert settle_precision(auto, cpu, plain).training.use_amp is plain
    # An unsettled `auto` means float32.
    assert not Precision(auto.training, cpu).enabled


def test_a_processor_without_bf16_products_uses_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> float:
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(precision, "matmul_peak", refuse)
    mixed_precision_pays.cache_clear()
    pays, why = mixed_precision_pays(torch.device("cpu"), "bf16")
    mixed_precision_pays.cache_clear()
    assert (pays, "cannot multiply bf16 matrices" in why) == (False, True)


@pytest.mark.parametrize("choice", [True, False])
def test_a_resumed_run_keeps_its_precision(
    choice: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run({"training.max_steps": 1, "training.use_amp": choice}, folder=folder)
    # This machine would choose differently.
    monkeypatch.setattr(precision, "mixed_precision_pays", lambda *_: (not choice, "so it says"))
    again = run({"training.max_steps": 2, "training.use_amp": "auto"}, folder=folder, resume="auto")
    assert again.state["config"]["training"]["use_amp"] is choice
    assert yaml.safe_load((folder / "config.yaml").read_text())["training"]["use_amp"] is choice
    fresh = run({"training.max_steps": 1, "training.use_amp": "auto"}, folder=tmp_path / "fresh")
    assert fresh.state["config"]["training"]["use_amp"] is not choice
