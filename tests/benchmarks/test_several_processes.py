"""The multi-process measurements run with `--short`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.test_benchmarks import figures

from benchmarks import world_size


def test_every_number_of_processes_gives_the_result_of_one(tmp_path: Path) -> None:
    rows = figures(world_size.main, tmp_path / "world_size.json")["runs"]
    assert {row["run"] for row in rows} == set(world_size.SHORT)
    for row in rows:
        assert max(row["weights"], row["target"], row["moments"]) < 5e-5, row
        assert row["same images"] == "yes"


def test_two_nodes_measures_nothing_without_namespaces(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.two_nodes", "--short", "--json", str(tmp_path / "none.json")]
    # An empty PATH hides `ip`, which creates the namespaces.
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": ""}, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "two_nodes: network namespaces cannot be created, nothing measured" in result.stdout
    assert not (tmp_path / "none.json").exists()
