"""Train the runs of some studies side by side on one device, within a time limit.

    python -m benchmarks.side_by_side docs/results/cifar10_gpu/cifar10.yaml docs/results/cifar10_gpu/cifar10_fast.yaml \
        --output-dir runs/gpu --seconds 480 --jobs 4 data.data_path=data/cifar10

Small networks leave a large GPU idle between kernels, so several runs together finish sooner than one after another; the
time of a single run then says nothing about its speed. Runs start in the order of the studies, then seeds, then cells.
Each is one `hjepa ablate --final` of a study folder under `--output-dir`, so results are written as runs finish. At the
time limit the remaining runs are asked to stop; they save a checkpoint, and the same command continues them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from hjepa.research.study import load_study

_LOOK_EVERY = 0.5
# Time that a run gets to write its checkpoint.
_GRACE = 20.0


@dataclass(frozen=True)
class Job:
    """One run of a study."""

    study: Path
    seed: int
    cell: str

    def command(self, output_dir: Path, device: str, overrides: list[str]) -> list[str]:
        """The command that trains and evaluates this run alone."""
        chosen = ["--seeds", str(self.seed), "--cells", self.cell, "--device", device, "--final"]
        folder = ["--output-dir", str(output_dir / self.study.stem)]
        return [sys.executable, "-m", "hjepa", "ablate", str(self.study), *folder, *chosen, *overrides]

    def log(self, output_dir: Path) -> Path:
        """File of what the run prints."""
        return output_dir / f"{self.study.stem}_{self.cell}_{self.seed}.log".replace(" ", "_")


def jobs_of(studies: list[Path]) -> list[Job]:
    """Every run of the studies, in order: by study, seed, cell."""
    found = []
    for path in studies:
        _, study = load_study(path)
        found += [Job(path, seed, cell) for seed in study.seeds for cell in study.all_cells()]
    return found


def run(jobs: list[Job], output_dir: Path, *, at_once: int, seconds: float, device: str, overrides: list[str]) -> int:
    """Run the jobs, at most `at_once` at a time; the number that did not finish well."""
    output_dir.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    waiting, running = deque(jobs), dict[Job, subprocess.Popen[bytes]]()
    unfinished = 0
    while waiting or running:
        left = seconds - (time.monotonic() - started)
        while waiting and len(running) < at_once and left > 0:
            job = waiting.popleft()
            with job.log(output_dir).open("w") as log:
                process = subprocess.Popen(job.command(output_dir, device, overrides), stdout=log, stderr=log)
            running[job] = process
        for job, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[job]
            unfinished += process.returncode != 0
            took = f"after {time.monotonic() - started:.0f} s"
            print(f"{job.study.stem}, {job.cell!r}, seed {job.seed}: exit code {process.returncode} {took}", flush=True)
        if left <= 0:
            print(f"time limit: {len(running)} runs are stopped, {len(waiting)} were not begun", flush=True)
            return unfinished + len(waiting) + _stop(list(running.values()))
        time.sleep(_LOOK_EVERY)
    return unfinished


def _stop(processes: list[subprocess.Popen[bytes]]) -> int:
    for process in processes:
        process.terminate()
    latest = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(latest - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
    return len(processes)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("studies", nargs="+", help="study files, then section.key=value for every run")
    options.add_argument("--output-dir", type=Path, required=True)
    options.add_argument("--seconds", type=float, default=3600.0, help="time limit (default: an hour)")
    options.add_argument("--jobs", type=int, default=4, help="runs at a time (default: 4)")
    options.add_argument("--device", default="cuda")
    given = options.parse_intermixed_args(arguments)
    studies = [Path(text) for text in given.studies if "=" not in text]
    overrides = [text for text in given.studies if "=" in text]
    jobs = jobs_of(studies)
    return min(
        run(
            jobs,
            given.output_dir,
            at_once=given.jobs,
            seconds=given.seconds,
            device=given.device,
            overrides=overrides,
        ),
        1,
    )


if __name__ == "__main__":
    sys.exit(main())
