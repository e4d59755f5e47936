"""Program for the multi-process tests; it forks after the imports, which take longer than the runs.

Called with the number of processes, a free port, and a JSON list of runs: `config` (a YAML file), `folder`, `changes`
(dotted keys) and optionally `resume`, `infinite` (a process and the pass in which its prediction is infinite), `memory`
(a process and the images that fit into its memory) or `dies` (a process and the pass in which it is killed).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from torch import nn

from hjepa.config import load_config
from hjepa.errors import UserError
from hjepa.models.hjepa import HJEPA
from hjepa.training import run_training


def main() -> None:
    world, port, runs = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    rank, children = int(os.environ.get("RANK", "0")), []
    if "RANK" not in os.environ:
        for number in range(1, world):
            child = os.fork()
            if not child:
                rank, children = number, []
                break
            children.append(child)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    for number, run in enumerate(runs):
        if port:
            os.environ["MASTER_PORT"] = str(port + number)
        spoiling = nn.modules.module.register_module_forward_hook(_Trouble(rank, run))
        config = load_config(run["config"], run.get("changes", {}))
        try:
            run_training(config, output_dir=run["folder"], resume=run.get("resume"), console=False)
        except UserError as error:
            if not run.get("fails"):
                raise
            print(f"process {rank}: {type(error).__name__} {error.exit_code}: {error}", flush=True)
        spoiling.remove()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(next((code for code in codes if code not in (0, -signal.SIGKILL)), 0))


class _Trouble:
    """Counts the training passes of the model and causes the failure that a run specifies."""

    def __init__(self, rank: int, run: dict[str, Any]) -> None:
        self._mine = {
            kind: run[kind][1] for kind in ("infinite", "memory", "dies") if kind in run and run[kind][0] == rank
        }
        self._passes = 0

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if not isinstance(module, HJEPA) or not module.training:
            return
        self._passes += 1
        if self._passes == self._mine.get("infinite"):
            output.predictions[0] = output.predictions[0] * float("inf")
        if len(arguments[0]) > self._mine.get("memory", len(arguments[0])):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much")
        if self._passes == self._mine.get("dies") and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
