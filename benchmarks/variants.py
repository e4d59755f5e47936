"""How precision and compilation affect the speed of a training step on this machine.

    python -m benchmarks.variants --config quickstart --json variants.json

All variants are built first and then timed alternately, so that load on the machine affects them equally. `over first`
is the speed relative to the first variant, by default eager float32. `first steps` is the time of the first two steps,
which includes compilation; `pays after` is the number of steps after which the speed-up has made up for it.
`share of peak` is relative to the matrix-product peak in the variant's data type.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.benchmark.step import TimedStep
from hjepa.config import Config
from hjepa.runtime.device import resolve_device
from hjepa.runtime.peak import matmul_peak

# Keys of the `training` section.
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"use_amp": False},
    "bfloat16": {"use_amp": True, "amp_dtype": "bf16"},
    "float32, compiled": {"use_amp": False, "compile": True},
    "bfloat16, compiled": {"use_amp": True, "amp_dtype": "bf16", "compile": True},
    "bfloat16, CUDA graphs": {
        "use_amp": True,
        "amp_dtype": "bf16",
        "compile": True,
        "compile_mode": "reduce-overhead",
    },
}


def measure(config: Config, names: list[str], *, rounds: int, side: int | None = None) -> dict[str, Any]:
    """Speed of every variant, and the time of its first steps.

    Args:
        config: the configuration to vary.
        names: names of variants; ratios are relative to the first.
        rounds: timed steps of each variant.
        side: size of the square matrices with which the peak is measured.
    """
    steps, begun, peaks = {}, {}, {}
    for name in names:
        step = TimedStep(with_training(config, VARIANTS[name]), synthetic=True)
        begun[name] = step() + step()
        steps[name], peaks[name] = step, matmul_peak(step.device, step.dtype, side=side)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            seconds[name].append(steps[name]())
    plain = median(seconds[names[0]])
    rows: Rows = []
    for name, step in steps.items():
        taken = median(seconds[name])
        preparation, saved = begun[name] - 2 * taken, plain - taken
        rows.append(
            {
                "variant": name,
                "ms": taken * 1e3,
                "images/s": step.images / taken,
                "over first": plain / taken,
                "GFLOP/s of peak": f"{step.images * step.cost.total / taken / 1e9:.0f} of {peaks[name] / 1e9:.0f}",
                "share of peak": step.images * step.cost.total / taken / peaks[name],
                "first steps, s": begun[name],
                "pays after, steps": preparation / saved if saved > 0 and preparation > 0 else None,
            }
        )
    step = steps[names[0]]
    return {
        "variants": rows,
        "rounds": rounds,
        "flop_per_image": step.cost.total,
        "tokens": step.cost.tokens,
        "images_per_step": step.images,
        "device": torch.cuda.get_device_name(step.device) if step.device.type == "cuda" else step.device.type,
    }


def promising(device: torch.device) -> list[str]:
    """Variants that may be faster on a device: CUDA graphs only on a GPU, bfloat16 only if its products are faster."""
    if device.type == "cuda":
        return list(VARIANTS)
    half, whole = (matmul_peak(device, dtype, side=512) for dtype in (torch.bfloat16, torch.float32))
    print(f"products of 512 x 512 in bfloat16: {half / 1e9:.0f} GFLOP/s, in float32 {whole / 1e9:.0f}")
    return [name for name in VARIANTS if name.startswith("float32") or (half > whole and "CUDA" not in name)]


def with_training(config: Config, keys: dict[str, Any]) -> Config:
    """The configuration with keys of its `training` section replaced."""
    return config.model_copy(update={"training": config.training.model_copy(update={"compile": False, **keys})})


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="quickstart", help="YAML file or preset")
    options.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), help="default: those that may be faster on this device"
    )
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("overrides", nargs="*", metavar="section.key=value")
    given = options.parse_args(arguments)
    keys: dict[str, Any] = {"training__num_threads": given.threads}
    if given.short:
        keys |= {"data__batch_size": 16, "model__depth": 3, "device": "cpu"}
    config = configuration(given.config, given.overrides, **keys)
    names = given.variants or promising(resolve_device(config.device))
    result = measure(config, names, rounds=1 if given.short else given.rounds, side=256 if given.short else None)
    show(result["variants"])
    write(given.json, "variants", result, config)


if __name__ == "__main__":
    main()
