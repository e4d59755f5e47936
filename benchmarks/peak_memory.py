"""Peak memory of a training step, beside the calculated size of weights, gradients and optimiser state.

    python -m benchmarks.peak_memory --json memory.json

Every configuration trains in its own process, because a process's peak never falls again. On a CPU it is the highest
resident memory of that process minus its peak before the model was built; on a GPU it is the allocator's peak.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.benchmark.step import TimedStep
from hjepa.runtime.memory import peak_memory

FLOAT32 = "training.use_amp=false"
CASES: dict[str, list[str]] = {
    "quickstart": [FLOAT32],
    "quickstart, gradient checkpointing": [FLOAT32, "model.gradient_checkpointing=true"],
    "quickstart, 32 x 4 accumulated": [FLOAT32, "data.batch_size=32", "training.accumulation_steps=4"],
    "quickstart, bf16": ["training.use_amp=true"],
}


def measure(name: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """Peak and calculated bytes of some training steps. Runs in its own process."""
    config = configuration(name, overrides)
    before = peak_memory(torch.device("cpu")) or 0
    step = TimedStep(config, synthetic=True)
    cuda = step.device.type == "cuda"
    for _ in range(steps):
        step()
    model = step.trainer.method
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    kept = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return {
        "peak": (peak_memory(step.device) or 0) - (0 if cuda else before),
        # Weight, gradient and two moments; the moving average has only weights.
        "state": 4 * trained + kept,
        "batch": config.data.batch_size,
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", help="measure only this YAML file or preset, with the overrides")
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = options.parse_args(arguments)
    cases = {given.config: []} if given.config else CASES
    extra = list(given.overrides)
    if given.threads:
        extra.append(f"training.num_threads={given.threads}")
        torch.set_num_threads(given.threads)  # recorded in the file; the measured processes use the key
    if given.short:
        cases = {"quickstart": [FLOAT32]}
        extra += ["model.depth=3", "data.batch_size=16", "device=cpu"]
    rows: Rows = []
    for name, overrides in cases.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            source = given.config or "quickstart"
            found = pool.apply(measure, (source, [*overrides, *extra], 1 if given.short else given.steps))
        rows.append(
            {
                "configuration": name,
                "batch": found["batch"],
                "peak, MB": found["peak"] / 1e6,
                "weights and optimiser, MB": found["state"] / 1e6,
                "per image, MB": (found["peak"] - found["state"]) / found["batch"] / 1e6,
            }
        )
    show(rows)
    write(given.json, "peak_memory", {"peak_memory": rows, "overrides": extra})


if __name__ == "__main__":
    main()
