"""Whether processes on one machine should divide Muon's orthogonalisation, or each do all of it.

    python -m benchmarks.muon_share --json muon_share.json

Every process has the gradients of all matrices, so a process can orthogonalise some of them for the others. Both
methods are timed alternately on the matrices of a preset's encoder and predictor, grouped by shape as in
`hjepa.training.optim.muon`. Barriers before and after make the time that of the slowest process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.methods import build_method
from hjepa.runtime.distribution import divide_work
from hjepa.training.optim.build import OptimizerPair, build_optimizer
from hjepa.training.optim.muon import Muon, orthogonalise

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "each does all": orthogonalise,
    "divided": lambda matrices: divide_work(orthogonalise, matrices),
}


def stacks(preset: str) -> list[Tensor]:
    """Random matrices of the shapes that Muon orthogonalises for the preset, [count, rows, columns] each."""
    config = configuration(preset, training__optimizer="muon")
    optimiser = build_optimizer(build_method(config), config.training)
    assert isinstance(optimiser, OptimizerPair)
    (muon,) = (member for member in optimiser.members if isinstance(member, Muon))
    counts: dict[tuple[int, int], int] = {}
    for group in muon.param_groups:
        for parameter in group["params"]:
            shape = (parameter.shape[0] // group["pieces"], parameter.shape[1])
            counts[shape] = counts.get(shape, 0) + group["pieces"]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((count, *shape), generator=generator) for shape, count in counts.items()]


def _in_a_process(rank: int, processes: int, folder: str, preset: str, rounds: int, threads: int) -> None:
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    matrices = stacks(preset)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(rounds + 1):
        for name, way in WAYS.items():
            distributed.barrier()
            started = time.perf_counter()
            for stack in matrices:
                way(stack)
            distributed.barrier()
            # The first round only warms up caches.
            if turn:
                seconds[name].append(time.perf_counter() - started)
    if rank == 0:
        torch.save(seconds, f"{folder}/seconds.pt")
    distributed.destroy_process_group()


def measure(preset: str, processes: int, rounds: int) -> Rows:
    """Median milliseconds per update, and the ratio of each method to the first."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_in_a_process, (processes, folder, preset, rounds, torch.get_num_threads()), nprocs=processes)
        seconds = torch.load(Path(folder) / "seconds.pt")
    first = seconds[next(iter(WAYS))]
    return [
        {
            "way": name,
            "ms per update": median(taken) * 1e3,
            "ratio": median(own / other for own, other in zip(taken, first, strict=True)),
        }
        for name, taken in seconds.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="cifar10_cpu", help="preset or file")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--rounds", type=int, default=30)
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads or 1)
    rows = measure(given.config, given.processes, 1 if given.short else given.rounds)
    show(rows)
    write(given.json, "muon_share", {"muon_share": rows, "config": given.config, "processes": given.processes})


if __name__ == "__main__":
    main()
