"""How long the program and the package take to start, compared with an empty interpreter and `import torch`.

    python -m benchmarks.start_up --json start_up.json

Every case runs in its own process. The cases alternate and the fastest time of each counts, since other load can only
make it slower. Byte code is first cached in a temporary folder, as it is after an installation.
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
    """Seconds of each case, and the difference to the empty interpreter and to `import torch`."""
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
    # Exit code 2 is a user error, which is one of the cases.
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
