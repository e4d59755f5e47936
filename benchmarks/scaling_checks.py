"""Compare the formulas of `benchmarks.scaling_formulas` with measurements on one machine.

    python -m benchmarks.scaling_checks --json docs/results/scaling_checks.json

Parameters and FLOP are compared with models built on the meta device, bytes saved for the backward pass with what
PyTorch saves, memory of a step with the peak of a process, and bytes of the gradient exchange with two processes.
"""

from __future__ import annotations

import math
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peak_memory import FLOAT32, measure
from benchmarks.report import Rows, configuration, parser, show, write
from benchmarks.scaling_formulas import (
    FP32,
    MODELS,
    PRESET,
    activation_bytes,
    ddp_volume,
    describe,
)
from hjepa.config import Config, load_config
from hjepa.masking import MaskSampler
from hjepa.models import blocks, build_model
from hjepa.models.hjepa import JepaOutput

_SENT = Path("/sys/class/net/lo/statistics/tx_bytes")
_ROUNDS = 5


def sampler(config: Config) -> MaskSampler:
    """The mask sampler of a configuration."""
    geometry = config.geometry()
    strides = [level.stride for level in geometry.levels]
    return MaskSampler(config.masking, geometry.grid, strides, seed=config.seed)


def loss_of(output: JepaOutput) -> Tensor:
    """The prediction loss without regularisers, which the formula leaves out."""
    pairs = zip(output.predictions, output.targets, strict=True)
    return torch.stack([nn.functional.smooth_l1_loss(p.float(), t.float()) for p, t in pairs]).sum()


def count_on_meta(config: Config, images: int = 2) -> tuple[int, int, float]:
    """Parameters of context encoder and predictor, and FLOP per image of forward and backward pass.

    The model is on the meta device, so nothing is computed.
    """
    with torch.device("meta"):
        model = build_model(config).train()
        pictures = torch.empty(images, 3, *model.geometry.image_size)
    masks = sampler(config)(0, images).to("meta")
    with FlopCounterMode(display=False) as counter:
        loss_of(model(pictures, masks)).backward()
    encoder = sum(p.numel() for p in model.context_encoder.parameters())
    predictor = sum(p.numel() for p in model.predictors.parameters())
    return encoder, predictor, counter.get_total_flops() / images


def kept_bytes(config: Config, images: int, *, half: bool) -> float:
    """Bytes per image, without weights, that PyTorch saves for the backward pass of a model on the CPU.

    Attention uses PyTorch's fused kernel, as on a GPU, for which the formula is meant. Explicit products would also
    save the attention weights.
    """
    with fused_attention():
        return _kept_bytes(config, images, half=half)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Use the fused attention kernel even for bf16 on a CPU."""
    longest = blocks.MOST_KEYS
    blocks.MOST_KEYS = 0
    try:
        yield
    finally:
        blocks.MOST_KEYS = longest


def _kept_bytes(config: Config, images: int, *, half: bool) -> float:
    model = build_model(config).train()
    masks = sampler(config)(0, images)
    pictures = torch.randn(images, 3, *model.geometry.image_size)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = {p.numel() for p in model.parameters() if p.ndim > 1}
    kept: dict[int, int] = {}
    alive = []

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        # Autocast's 16-bit copies of weights count as state.
        is_copy = storage.nbytes() // x.element_size() in sizes and x.dtype == torch.bfloat16 and x.ndim == 2
        if storage.data_ptr() not in own and not is_copy and x.dtype != torch.int64:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # so that no address is reused
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        output = model(pictures, masks)
        loss = loss_of(output)
    total = sum(kept.values())
    del loss, output
    return total / images


def formula_bytes(config: Config, *, half: bool) -> float:
    """The value of `kept_bytes` according to the formula."""
    geometry, masks = config.geometry(), sampler(config)
    model = config.model
    counts = masks.counts
    return activation_bytes(
        counts.context,
        sum(counts.targets[group[0]] for group in masks.groups),
        sum(counts.targets),
        depth=geometry.depth,
        width=geometry.embed_dim,
        hidden=int(geometry.embed_dim * model.mlp_ratio),
        heads=geometry.num_heads,
        taps=len({level.depth for level in geometry.levels}),
        patch=3 * math.prod(geometry.patch),
        predictor=(
            model.predictor.depth,
            geometry.predictor_dim,
            int(geometry.predictor_dim * model.predictor.mlp_ratio),
            geometry.predictor_heads,
        ),
        half=half,
    ) * float(config.masking.sets_per_image)


def _exchange(rank: int, world: int, file: str, tree: dict[str, Any]) -> tuple[float, float, int]:
    """DDP steps of one process: bytes in its buckets, bytes sent over the loopback interface, trained parameters."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    config = load_config(tree)
    model = build_model(config).train()
    network = nn.parallel.DistributedDataParallel(model)
    counted = 0

    # No annotations: PyTorch compares them with classes, and postponed evaluation makes them strings.
    def hook(_, bucket):  # type: ignore[no-untyped-def]
        nonlocal counted
        counted += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    network.register_comm_hook(None, hook)
    masks = sampler(config)(0, 2)
    pictures = torch.randn(2, 3, *model.geometry.image_size)
    loss_of(network(pictures, masks)).backward()
    dist.barrier()
    counted, before = 0, _sent()
    for _ in range(_ROUNDS):
        loss_of(network(pictures, masks)).backward()
    dist.barrier()
    sent = _sent() - before
    dist.barrier()
    dist.destroy_process_group()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return counted / _ROUNDS, sent / _ROUNDS, trained


def _sent() -> int:
    return int(_SENT.read_text()) if _SENT.is_file() else 0


def exchanged_bytes(config: Config, world: int = 2) -> tuple[float, float, int]:
    """Per step: bytes of gradients that a process passes to DDP, and bytes that all processes send; trained parameters.

    With `world=1` it runs in this process and sends nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        work = [(rank, world, meeting, config.model_dump(mode="json")) for rank in range(world)]
        if world == 1:
            return _exchange(*work[0])
        with multiprocessing.get_context("spawn").Pool(world) as pool:
            found: list[tuple[float, float, int]] = pool.starmap(_exchange, work, chunksize=1)
    return found[0]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    given = options.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    names = dict(list(MODELS.items())[:1]) if given.short else MODELS
    rows: Rows = []
    for label, name in names.items():
        config = load_config(PRESET, {"model.encoder_type": name})
        size = describe(label, config)
        encoder, predictor, flop = count_on_meta(config)
        rows += [
            _row(label, "encoder, parameters", size.encoder, encoder),
            _row(label, "predictor, parameters", size.predictor, predictor),
            _row(label, "FLOP per image", size.cost.total, flop),
        ]
    small = configuration("quickstart", ["data.image_size=32"])
    cases = {"quickstart": small}
    if not given.short:
        cases["ViT-S/16"] = load_config(PRESET, {"model.encoder_type": MODELS["ViT-S/16"]})
    for label, config in cases.items():
        for half in (False, True):
            what = f"kept per image, bytes, {'bfloat16' if half else 'float32'}"
            rows.append(_row(label, what, formula_bytes(config, half=half), kept_bytes(config, 4, half=half)))
    extra = [FLOAT32, f"training.num_threads={given.threads or 1}", "device=cpu"]
    if given.short:
        extra.append("model.depth=3")
    peaks = []
    for images in (32, 64) if given.short else (128, 256):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(measure, ("quickstart", [*extra, f"data.batch_size={images}"], 2)))
    kept = formula_bytes(configuration("quickstart", extra), half=False)
    low, high = peaks
    images = high["batch"] - low["batch"]
    rows += [
        # The process also holds libraries, images and unreleased memory; these cancel in the difference.
        _row("quickstart", "peak of a process, bytes, float32", low["state"] + low["batch"] * kept, low["peak"]),
        _row("quickstart", "the same per further image", kept, (high["peak"] - low["peak"]) / images),
    ]
    handed, sent, trained = exchanged_bytes(configuration("quickstart"))
    rows.append(_row("quickstart", "gradients per process and step, bytes", FP32 * trained, handed))
    if sent:
        # The formula is per process.
        size = describe("quickstart", configuration("quickstart"))
        rows.append(_row("quickstart", "sent per step by two processes, bytes", 2 * ddp_volume(size, 2), sent))
    show(rows)
    write(given.json, "scaling_checks", {"checks": rows, "overrides": extra})


def _row(model: str, what: str, formula: float, measured: float) -> dict[str, str | int | float | None]:
    return {
        "model": model,
        "what": what,
        "formula": float(formula),
        "measured": float(measured),
        "measured over formula": measured / formula,
    }


if __name__ == "__main__":
    main()
