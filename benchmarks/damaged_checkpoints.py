"""Damage checkpoint files and check that the damage is detected and that runs resume from the previous checkpoint.

The checkpoint ``last.pth`` of a finished run is damaged in many ways: truncated, one to eight bits flipped, a block
zeroed, blocks swapped, bytes appended, emptied, overwritten with noise, or replaced by a file of another run or of
another program. Each time

- reading the file must fail with a one-line error that names it;
- the search behind ``--resume auto`` must report the file and return the previous checkpoint;
- for some of the files, training is resumed from there and must end bit-equal to the undamaged run.

    python -m benchmarks.damaged_checkpoints --files 1000 --json docs/results/reliability_damaged_checkpoints.json
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.kill_resume import BASE, differences, ending
from hjepa.config import load_config
from hjepa.errors import CheckpointError
from hjepa.runs.checkpoint import read_checkpoint
from hjepa.runs.locate import newest_usable
from hjepa.runtime.environment import environment
from hjepa.runtime.files import write_atomically
from hjepa.training import run_training

Damage = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, luck: random.Random) -> bytes:
    """Truncate the file."""
    return data[: luck.randrange(1, len(data))]


def flipped(data: bytes, luck: random.Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for position in luck.sample(range(len(data)), luck.randint(1, 8)):
        changed[position] ^= 1 << luck.randrange(8)
    return bytes(changed)


def zeroed(data: bytes, luck: random.Random) -> bytes:
    """Zero a block, as if it had never reached the disk."""
    start = luck.randrange(len(data) - 4096)
    length = luck.randint(512, 4096)
    changed = data[:start] + bytes(length) + data[start + length :]
    return changed if changed != data else changed[:-1]


def swapped_blocks(data: bytes, luck: random.Random) -> bytes:
    """Swap two blocks of the file."""
    size = 4096
    a, b = sorted(luck.sample(range(len(data) // size), 2))
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    parts[a], parts[b] = parts[b], parts[a]
    changed = b"".join(parts)
    return changed if changed != data else flipped(data, luck)


def lengthened(data: bytes, luck: random.Random) -> bytes:
    """Append random bytes."""
    return data + luck.randbytes(luck.randint(1, 4096))


def empty(data: bytes, luck: random.Random) -> bytes:  # noqa: ARG001
    """Empty the file."""
    return b""


def noise(data: bytes, luck: random.Random) -> bytes:
    """Replace the file by random bytes of the same size."""
    return luck.randbytes(len(data))


def foreign(data: bytes, luck: random.Random) -> bytes:  # noqa: ARG001
    """Replace the file by a PyTorch file of another program."""
    file = io.BytesIO()
    torch.save({"weights": torch.full((4,), luck.random())}, file)
    return file.getvalue()


KINDS: dict[str, Damage] = {
    "cut": cut,
    "bits flipped": flipped,
    "block of zeros": zeroed,
    "blocks swapped": swapped_blocks,
    "lengthened": lengthened,
    "empty": empty,
    "noise": noise,
    "another program's": foreign,
}
ANOTHER_RUN = "another run's"


def measure(files: int, trained: int, seed: int) -> dict[str, Any]:
    """Damage ``files`` files and resume training after ``trained`` of them."""
    luck = random.Random(seed)
    config = load_config({}, {**BASE, "training.epochs": 2, "seed": 0})
    kinds = [*KINDS, ANOTHER_RUN]
    table = {kind: {"files": 0, "noticed": 0, "one_before_found": 0, "trained_on": 0, "equal": 0} for kind in kinds}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        run, other, work = (Path(scratch) / name for name in ("run", "other", "work"))
        run_training(config, output_dir=run, console=False)
        run_training(load_config({}, {**BASE, "training.epochs": 2, "seed": 1}), output_dir=other, console=False)
        # Remove the checkpoints that are as new as the last one, so that only an older one can be found.
        for name in ("best_model.pth", "checkpoint_epoch_2.pth", "checkpoint_step_12.pth"):
            (run / "checkpoints" / name).unlink(missing_ok=True)
        whole = (run / "checkpoints" / "last.pth").read_bytes()
        identity = json.loads((run / "environment.json").read_text(encoding="utf-8"))["run"]
        before = newest_usable_step(run / "checkpoints", identity)
        expected = ending(run)
        every = max(1, files // trained)
        for number in range(files):
            kind = kinds[number % len(kinds)]
            row = table[kind]
            row["files"] += 1
            last = run / "checkpoints" / "last.pth"
            foreign_run = kind == ANOTHER_RUN
            data = (other / "checkpoints" / "last.pth").read_bytes() if foreign_run else KINDS[kind](whole, luck)
            last.write_bytes(data)
            try:
                if not foreign_run:
                    refuse(last)
                row["noticed"] += 1
                start = newest_usable(run / "checkpoints", identity)
                assert start is not None
                assert start.checkpoint != last, "the damaged file was used"
                assert start.state["step"] == before, f"went back to step {start.state['step']}"
                assert any(str(last) in note for note in start.notes), "the damaged file is not named"
                row["one_before_found"] += 1
                # Choose by the round over all kinds, so that training is resumed after every kind of damage.
                if (
                    number // len(kinds) % (every // len(kinds) + 1) == 0
                    and sum(r["trained_on"] for r in table.values()) < trained
                ):
                    row["trained_on"] += 1
                    shutil.rmtree(work, ignore_errors=True)
                    shutil.copytree(run, work)
                    run_training(config, output_dir=work, resume="auto", console=False)
                    found = [
                        d
                        for d in differences(expected, ending(work))
                        if not d.startswith((".files", ".state.retention"))
                    ]
                    assert not found, f"ended differently: {found[:5]}"
                    row["equal"] += 1
            except Exception as error:
                failures.append(f"{kind}, file {number}: {type(error).__name__}: {error}")
                print(failures[-1], file=sys.stderr)
            last.write_bytes(whole)
    return {"damage": table, "failures": failures}


def newest_usable_step(folder: Path, identity: str) -> int:
    """Step of the newest usable checkpoint apart from ``last.pth``."""
    last = folder / "last.pth"
    aside = last.with_suffix(".aside")
    last.rename(aside)
    start = newest_usable(folder, identity)
    aside.rename(last)
    assert start is not None
    return int(start.state["step"])


def refuse(file: Path) -> None:
    """Check that reading the file fails with a one-line error that names it.

    Raises:
        AssertionError: the file was loaded, or the error does not have that form.
    """
    try:
        read_checkpoint(file)
    except CheckpointError as error:
        message = str(error)
    else:
        raise AssertionError("loaded silently")
    assert "\n" not in message, "more than one line"
    assert message.startswith(str(file)), "the file is not named"


def main() -> int:
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--trained", type=int, default=50, help="files after which training is resumed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="two files of each kind, to check that everything runs")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files, trained = (2 * (len(KINDS) + 1), 2) if arguments.short else (arguments.files, arguments.trained)
    result = measure(files, trained, arguments.seed)
    columns = ["files", "noticed", "one_before_found", "trained_on", "equal"]
    print(f"| damage | {' | '.join(c.replace('_', ' ') for c in columns)} |\n|---|{'---:|' * len(columns)}")
    for kind, row in result["damage"].items():
        print(f"| {kind} | {' | '.join(str(row[c]) for c in columns)} |")
    total = {c: sum(row[c] for row in result["damage"].values()) for c in columns}
    print(f"| **all** | {' | '.join(str(total[c]) for c in columns)} |")
    if arguments.json:
        told = environment(load_config({}, BASE), torch.device("cpu"), 1)
        report = {"total": total, **result, "seed": arguments.seed, "environment": told}
        write_atomically(arguments.json, json.dumps(report, indent=1) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
