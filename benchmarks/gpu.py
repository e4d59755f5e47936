"""The training step on a GPU: speed, share of the bfloat16 peak, kernels.

    python -m benchmarks.gpu --json gpu.json

For ViT-Tiny/4 at 32 pixels and ViT-Base/16 at 224 pixels it prints the variants of `benchmarks.variants` with the
measured peak of matrix products. For the fastest variant it prints the kernels that take most of the time, the
attention kernel, and the number of host synchronisations per step. `--device cpu --short` runs the same code on a CPU
with tiny sizes.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import Rows, configuration, parser, show, write
from benchmarks.variants import VARIANTS, measure, with_training
from hjepa.benchmark.step import TimedStep
from hjepa.config import Config
from hjepa.runtime.peak import synchronise

_SHARED = [
    "model.num_hierarchies=2",
    "masking.num_masks=4",
    "data.augmentation.color_jitter=0",
    "training.accumulation_steps=1",
    "loss.type=smoothl1",
]
CASES: dict[str, list[str]] = {
    "ViT-Tiny/4, 32 px": [
        "model.encoder_type=vit_tiny_patch4_32",
        "model.embed_dim=192",
        "model.depth=12",
        "model.num_heads=3",
        "model.predictor.depth=2",
        "model.predictor.embed_dim=192",
        "model.predictor.num_heads=3",
        "data.batch_size=2048",
        *_SHARED,
    ],
    "ViT-Base/16, 224 px": [
        "model.encoder_type=vit_base_patch16_224",
        "model.embed_dim=768",
        "model.depth=12",
        "model.num_heads=12",
        "model.predictor.depth=6",
        "model.predictor.embed_dim=384",
        "model.predictor.num_heads=6",
        "data.batch_size=256",
        *_SHARED,
    ],
}
_SHORT = ["data.batch_size=16", "model.depth=3", "model.predictor.depth=1", "model.embed_dim=64", "model.num_heads=2"]
_TOP = 12


def kernels(config: Config, steps: int) -> Rows:
    """Profile some steps: kernels on a GPU, operators on a CPU, by decreasing time."""
    step = TimedStep(config, synthetic=True)
    for _ in range(3):
        step()
    cuda = step.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as recorded:
        for _ in range(steps):
            step()
        synchronise(step.device)
    times = {
        event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in recorded.key_averages()
        if cuda == (event.device_type.name == "CUDA")
    }
    total = sum(times.values())
    ranked = sorted(times, key=lambda key: -times[key])
    return [
        {"kernel": key[:90], "ms per step": times[key] / steps / 1e3, "share": times[key] / total} for key in ranked
    ]


def host_waits(config: Config) -> int | None:
    """Number of host synchronisations in a training step that writes no record; None without a GPU."""
    step = TimedStep(config, synthetic=True)
    if step.device.type != "cuda":
        return None
    for _ in range(3):
        step()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step.trainer.train_step(step.batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # The first warning announces the mode itself.
    return sum("called a synchronizing" in str(warning.message).lower() for warning in said)


def attention_kernel(rows: Rows) -> str | None:
    """The attention kernel that takes the most time, if any."""
    marks = ("flash", "fmha", "efficient_attention", "cudnn", "scaled_dot_product")
    return next((str(row["kernel"]) for row in rows if any(mark in str(row["kernel"]).lower() for mark in marks)), None)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options.add_argument("--rounds", type=int, default=20)
    given = options.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    rounds, side = (1, 256) if given.short else (given.rounds, None)
    figures: dict[str, Any] = {}
    lines: Rows = []
    for case in given.cases:
        overrides = [*CASES[case], f"device={given.device}", *(_SHORT if given.short else [])]
        if given.short and case.endswith("224 px"):
            overrides.append("data.image_size=128")
        config = configuration("quickstart", overrides, training__num_threads=given.threads)
        found = measure(config, given.variants, rounds=rounds, side=side)
        lines += [{"case": case, **row} for row in found["variants"]]
        best = max(found["variants"], key=lambda row: row["images/s"])["variant"]
        ranked = kernels(with_training(config, VARIANTS[best]), rounds)
        waits = host_waits(with_training(config, VARIANTS[best]))
        figures[case] = {
            **found,
            "profiled": best,
            "kernels": ranked[:_TOP],
            "attention": attention_kernel(ranked),
            "host_waits_per_step": waits,
        }
    show(lines)
    for case, found in figures.items():
        waits = found["host_waits_per_step"]
        print(f"\n{case}, {found['profiled']}; attention by {found['attention']}; host waits per step: {waits}")
        show(found["kernels"])
    write(given.json, "gpu", {"gpu": figures}, config)


if __name__ == "__main__":
    main()
