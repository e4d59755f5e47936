"""Compare PyTorch's fused attention kernel with explicit matrix products, in float32 and bf16.

    python -m benchmarks.attention --json attention.json

Sequence lengths are those of the context encoder, predictor and target encoder of a preset. The implementations are
timed alternately, forward and backward; ratios are relative to the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import Rows, configuration, parser, show, write
from hjepa.methods.jepa import build_sampler
from hjepa.models.blocks import attend_by_products
from hjepa.models.cost import step_cost

WAYS: dict[str, tuple[torch.dtype, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "fused, float32": (torch.float32, F.scaled_dot_product_attention),
    "written out, float32": (torch.float32, attend_by_products),
    "fused, bf16": (torch.bfloat16, F.scaled_dot_product_attention),
    "written out, bf16": (torch.bfloat16, attend_by_products),
}


def measure(preset: str, rounds: int, images: int | None = None) -> Rows:
    """Median milliseconds of forward alone and of forward with backward; the ratio compares the latter.

    Args:
        preset: preset or file that sets the sequence lengths.
        rounds: timed rounds over all implementations, after one for warming up.
        images: batch size; the preset's if not given.
    """
    config = configuration(preset)
    geometry, masks = config.geometry(), build_sampler(config)
    counts = masks.counts
    tokens = step_cost(config.model, geometry, 3, counts.context, counts.targets, masks.groups).tokens
    rows: Rows = []
    for part in ("context", "predictor", "target"):
        length = tokens[part]
        heads = geometry.predictor_heads if part == "predictor" else geometry.num_heads
        width = geometry.predictor_dim if part == "predictor" else geometry.embed_dim
        taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in WAYS}
        for turn in range(rounds + 1):
            for name, (dtype, way) in WAYS.items():
                shape = (3, images or config.data.batch_size, heads, length, width // heads)
                qkv = torch.randn(shape, dtype=dtype, requires_grad=True)
                started = time.perf_counter()
                out = way(*qkv.unbind())
                between = time.perf_counter()
                out.backward(out.detach())
                # The first round only warms up caches.
                if turn:
                    taken[name][0].append(between - started)
                    taken[name][1].append(time.perf_counter() - started)
        first = taken[next(iter(WAYS))][1]
        for name, (forward, both) in taken.items():
            rows.append(
                {
                    "part": part,
                    "tokens": length,
                    "way": name,
                    "forward, ms": median(forward) * 1e3,
                    "with backward, ms": median(both) * 1e3,
                    "ratio": median(own / other for own, other in zip(both, first, strict=True)),
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--config", default="cifar10_cpu", help="preset or file")
    options.add_argument("--rounds", type=int, default=15)
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads or 1)
    rows = measure(given.config, 1, images=2) if given.short else measure(given.config, given.rounds)
    show(rows)
    write(given.json, "attention", {"attention": rows, "config": given.config})


if __name__ == "__main__":
    main()
