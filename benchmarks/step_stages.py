"""How the time of a training step divides into stages, and how close each stage comes to the machine's peak.

    python -m benchmarks.step_stages --config configs/cpu_cifar10.yaml --json stages.json

Steps with and without timed stages alternate, and the ratio of their times is printed: it is the overhead of the
timing. FLOP of matrix products and bytes that operations read and write are counted by PyTorch's dispatcher on one
additional step. `share of peak` is relative to the matrix-product peak, measured before and after in the same run.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from benchmarks.report import Rows, configuration, parser, show, write
from benchmarks.stages import STAGES, Laps
from benchmarks.traffic import Traffic
from hjepa.benchmark.step import TimedStep
from hjepa.config import Config
from hjepa.runtime.peak import matmul_peak


def measure(config: Config, *, rounds: int, side: int | None = None) -> dict[str, Any]:
    """Medians over pairs of steps, one with timed stages and one without.

    Args:
        config: the configuration; the loader is fed with random images.
        rounds: timed pairs of steps, after two for warming up.
        side: size of the square matrices with which the peak is measured.
    """
    step = TimedStep(config, synthetic=True)
    peak = [matmul_peak(step.device, step.dtype, side=side)]
    traffic = Traffic()
    laps = Laps(step, traffic)
    for _ in range(2):
        step()
        laps()
    plain, watched = [], []
    for _ in range(rounds):
        plain.append(step())
        watched.append(laps())
    with traffic:
        laps()
    peak.append(matmul_peak(step.device, step.dtype, side=side))
    seconds = {stage: median(lap[stage] for lap in watched) for stage in STAGES}
    whole = sum(seconds.values())
    stages: Rows = [
        {
            "stage": stage,
            "ms": seconds[stage] * 1e3,
            "share of step": seconds[stage] / whole,
            "GFLOP": traffic.flop[stage] / 1e9,
            "MB": traffic.bytes[stage] / 1e6,
            "share of peak": traffic.flop[stage] / seconds[stage] / max(peak) if traffic.flop[stage] else None,
        }
        for stage in STAGES
    ]
    flop = sum(traffic.flop.values())
    return {
        "stages": stages,
        "step_ms": median(plain) * 1e3,
        "watched_over_plain": median(sum(lap.values()) for lap in watched) / median(plain),
        "images_per_step": step.images,
        "images_per_second": step.images / median(plain),
        "flop_per_step": flop,
        "flop_per_step_by_formula": step.cost.total * step.images,
        "peak_flops": max(peak),
        "peak_share": flop / median(plain) / max(peak),
        "rounds": rounds,
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="quickstart", help="YAML file or preset")
    options.add_argument("--rounds", type=int, default=20, help="timed pairs of steps")
    options.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = options.parse_args(arguments)
    keys: dict[str, Any] = {"training__compile": False, "training__num_threads": given.threads}
    if given.short:
        keys |= {"data__batch_size": 16, "model__depth": 3, "device": "cpu"}
    config = configuration(given.config, given.overrides, **keys)
    result = measure(config, rounds=1 if given.short else given.rounds, side=256 if given.short else None)
    show(result["stages"])
    print(
        f"step {result['step_ms']:.1f} ms ({result['images_per_second']:.1f} images/s), watched / plain "
        f"{result['watched_over_plain']:.3f}, {result['peak_share']:.1%} of {result['peak_flops'] / 1e9:.0f} GFLOP/s, "
        f"{torch.get_num_threads()} threads"
    )
    write(given.json, "step_stages", result, config)


if __name__ == "__main__":
    main()
