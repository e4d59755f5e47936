"""How long the program and the package take to start, beside an empty interpreter and `import torch`.

    python -m benchmarks.start_up --json start_up.json

Every case is a process of its own; cases take turns, and the quickest of each counts, since a start can only be
delayed. Byte code is cached in a temporary folder first, as it is after an installation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.report import Rows, parser, show, write

CASES: dict[str, list[str]] = {
    "empty interpreter": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import hjepa": ["-c", "import hjepa"],
    "import torch, hjepa": ["-c", "import torch, hjepa"],
    "import torch; hjepa.train": ["-c", "import torch, hjepa; import hjepa.training; hjepa.train"],
    "hjepa --help": ["-m", "hjepa", "--help"],
    "hjepa train --help": ["-m", "hjepa", "train", "--help"],
    "hjepa config show": ["-m", "hjepa", "config", "show", "quickstart"],
    "hjepa train, misspelt key": ["-m", "hjepa", "train", "training.lrr=1"],
}
_SHORT = ("empty interpreter", "import hjepa", "hjepa --help")


def measure(names: list[str], *, rounds: int) -> dict[str, Any]:
    """Seconds of each case, and what it costs over the empty interpreter and over `import torch`."""
    with tempfile.TemporaryDirectory() as cache:
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        variables["PYTHONPYCACHEPREFIX"] = cache
        for name in names:
            _seconds(CASES[name], variables)
        best = {name: float("inf") for name in names}
        for _ in range(rounds):
            for name in names:
                best[name] = min(best[name], _seconds(CASES[name], variables))
    torch = best.get("import torch")
    rows: Rows = [
        {
            "case": name,
            "s": seconds,
            "over an empty interpreter, s": seconds - best["empty interpreter"],
            "over import torch, s": None if torch is None else seconds - torch,
        }
        for name, seconds in best.items()
    ]
    return {"start_up": rows, "rounds": rounds}


def _seconds(command: list[str], variables: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=variables, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    # 2 is the answer to a user's mistake, which is one of the cases.
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    given = options.parse_args(arguments)
    result = measure(list(_SHORT if given.short else CASES), rounds=1 if given.short else given.rounds)
    show(result["start_up"])
    write(given.json, "start_up", result)


if __name__ == "__main__":
    main()
