"""Kill training runs at random times, resume with ``--resume auto``, and compare the result with an uninterrupted run.

Every run is killed and resumed until it finishes: mostly with SIGKILL, sometimes with SIGTERM or SIGINT. The final
weights, target encoder, optimiser, random state and every record must be bit-equal to those of an uninterrupted run.
The settings differ in checkpoint interval, accumulation, mixed precision, workers, stochastic depth, Muon and
background saving.

    python -m benchmarks.kill_resume --runs 100 --json docs/results/reliability_kill_resume.json

Processes are forked after the imports, so that a restart does not repeat them. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from hjepa.config import Config, load_config
from hjepa.runs.checkpoint import read_checkpoint, read_header
from hjepa.runtime.environment import environment
from hjepa.runtime.files import write_atomically
from hjepa.training import run_training

BASE: dict[str, Any] = {
    "model.encoder_type": "vit_tiny_patch4_16",
    "model.embed_dim": 32,
    "model.depth": 2,
    "model.num_heads": 2,
    "model.predictor.depth": 1,
    "model.predictor.embed_dim": 16,
    "model.predictor.num_heads": 1,
    "data.dataset": "shapes",
    "data.image_size": 16,
    "data.subset": 96,
    "data.batch_size": 16,
    "masking.num_masks": 2,
    "training.epochs": 4,
    "training.warmup_epochs": 0.5,
    "training.num_threads": 1,
    "logging.log_frequency": 3,
    "logging.tensorboard.enabled": False,
    "evaluation.eval_frequency": 2,
    "evaluation.online_images": 48,
    "evaluation.final": False,
    "checkpoint.save_frequency": 1,
    "checkpoint.save_every_steps": 2,
    "device": "cpu",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "saved every step, in the foreground": {"checkpoint.save_every_steps": 1, "checkpoint.background": False},
    "accumulation and stochastic depth": {
        "training.accumulation_steps": 2,
        "model.drop_path": 0.2,
        "data.batch_size": 8,
    },
    "bf16 and two mask sets": {"training.use_amp": True, "masking.sets_per_image": 2},
    "fp16 with loss scaling": {"training.use_amp": True, "training.amp_dtype": "fp16"},
    "two workers": {"data.storage": "workers", "data.num_workers": 2, "data.batch_size": 32, "training.epochs": 6},
    "Muon and regularisers": {"training.optimizer": "muon", "loss.variance_loss_weight": 0.1},
    "saved rarely": {"checkpoint.save_every_steps": 7, "checkpoint.save_frequency": 3, "training.clip_grad": 1.0},
}
# Record entries that hold times, or the load of the machine, differ between otherwise equal runs.
TIMES = ("time", "images_per_second", "data_wait", "seconds")
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]


def start(config: Config, folder: Path) -> int:
    """Fork a process that starts or resumes the run. Returns its PID; it exits with 0 once the run is complete."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        outcome = run_training(config, output_dir=folder, resume="auto", console=False)
        code = 0 if outcome.completed else 3
    except KeyboardInterrupt:
        code = 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Paths at which two nested structures are not bit-equal."""
    if isinstance(a, torch.Tensor):
        return [] if isinstance(b, torch.Tensor) and torch.equal(a, b) else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b}, key=str)
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{where}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{i}]")]
    # Online metrics may be NaN; two NaNs count as equal.
    return [] if a == b or (a != a and b != b) else [where]


def ending(folder: Path) -> dict[str, Any]:
    """What must be equal in two runs: the last checkpoint, the records, and the names of the checkpoints kept."""
    state = read_checkpoint(folder / "checkpoints" / "last.pth")
    for key in ("seconds", "run_dir", "run"):
        state.pop(key)
    # Only the save that removes files lists them, and a resumed run may not repeat that save.
    state["retention"].pop("removed")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    records = [
        {name: value for name, value in line.items() if name not in TIMES and not name.startswith("system/")}
        for line in lines
    ]
    return {"state": state, "records": records, "files": sorted(p.name for p in (folder / "checkpoints").iterdir())}


def saved(folder: Path) -> int:
    """Step of the newest checkpoint; -1 if there is none."""
    header = read_header(folder / "checkpoints" / "last.pth")
    return -1 if header is None else header.step


def one_run(
    config: Config, folder: Path, expected: dict[str, Any], seconds: float, luck: random.Random
) -> dict[str, Any]:
    """Kill and resume a run until it is complete, and compare it with the expected result."""
    kills: list[str] = []
    last = expected["state"]["step"] - 1
    deadline = time.monotonic() + 120 + 40 * seconds
    while time.monotonic() < deadline:
        child = start(config, folder)
        # Alternate between a kill shortly after the checkpoint of a random step and one at a random time after the
        # start of the process. After six kills the run is left to finish, since a run that saves rarely would never end.
        step = luck.randrange(last) if len(kills) % 2 == 0 else None
        until = time.monotonic() + luck.uniform(0, seconds) if step is None else float("inf")
        done, status = 0, 0
        while not done and (len(kills) >= 6 or time.monotonic() < until):
            done, status = os.waitpid(child, os.WNOHANG)
            if step is not None and until == float("inf") and saved(folder) >= step:
                until = time.monotonic() + luck.uniform(0, 0.05)
            if not done:
                time.sleep(0.002)
        if not done:
            number = luck.choice(SIGNALS)
            os.kill(child, number)
            kills.append(signal.Signals(number).name)
            _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            found = differences(expected, ending(folder))
            return {"kills": kills, "equal": not found, "differences": found[:10]}
        if code == 1:
            return {"kills": kills, "equal": False, "differences": ["the run ended with an error"]}
    return {"kills": kills, "equal": False, "differences": ["the run did not end"]}


def measure(runs: int, seed: int, names: list[str]) -> dict[str, Any]:
    """Kill and resume ``runs`` runs, taking the settings in turn."""
    luck = random.Random(seed)
    table = {name: {"runs": 0, "kills": 0, "equal": 0} for name in names}
    failures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        # Load the lazily imported libraries once; the forked processes inherit them.
        run_training(
            load_config({}, {**BASE, "training.max_steps": 1}), output_dir=Path(scratch) / "warm", console=False
        )
        references: dict[str, tuple[dict[str, Any], float]] = {}
        for number in range(runs):
            name = names[number % len(names)]
            config = load_config({}, {**BASE, **SETTINGS[name], "seed": 0})
            if name not in references:
                begun = time.monotonic()
                whole = Path(scratch) / f"whole {len(references)}"
                _, status = os.waitpid(start(config, whole), 0)
                if status:
                    raise SystemExit(f"{name}: the uninterrupted run failed")
                references[name] = ending(whole), time.monotonic() - begun
            result = one_run(config, Path(scratch) / f"run {number}", *references[name], luck)
            row = table[name]
            row["runs"] += 1
            row["kills"] += len(result["kills"])
            row["equal"] += result["equal"]
            if not result["equal"]:
                failures.append({"setting": name, "run": number, **result})
                print(f"{name}, run {number}: {result}", file=sys.stderr)
    return {"settings": table, "failures": failures}


def main() -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="two runs of two settings, to check that everything runs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = list(SETTINGS)[:2] if arguments.short else list(SETTINGS)
    runs = 2 if arguments.short else arguments.runs
    result = measure(runs, arguments.seed, names)
    print("| setting | runs | kills | bit-equal |\n|---|---:|---:|---:|")
    for name, row in result["settings"].items():
        print(f"| {name} | {row['runs']} | {row['kills']} | {row['equal']} |")
    total = {key: sum(row[key] for row in result["settings"].values()) for key in ("runs", "kills", "equal")}
    print(f"| **all** | {total['runs']} | {total['kills']} | {total['equal']} |")
    if arguments.json:
        told = environment(load_config({}, BASE), torch.device("cpu"), 1)
        report = {"total": total, **result, "seed": arguments.seed, "environment": told}
        write_atomically(arguments.json, json.dumps(report, indent=1) + "\n")
    return 0 if total["equal"] == total["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
