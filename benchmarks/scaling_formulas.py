"""Formulas of the scaling model: parameters, memory, communication and time of a training step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hjepa.config import Config
from hjepa.masking import MaskSampler
from hjepa.models.cost import StepCost
from hjepa.training.cost import training_cost

PRESET = "imagenet1k"
MODELS = {
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-H/14": "vit_huge_patch14_224",
}
WORLDS = (1, 8, 64, 256)
GLOBAL_BATCH = 2048
SHARES = (0.2, 0.3, 0.4, 0.5)
# Assumed share of the peak in step times.
SHARE = 0.4
# Images and epochs of each run.
RUNS = {"ImageNet-1k, 300 epochs": (1_281_167, 300), "ImageNet-21k, 90 epochs": (14_197_122, 90)}

FP32, BF16 = 4, 2
# The rest is for the allocator, the communication library and temporary tensors, which the formula leaves out.
USABLE = 0.9


@dataclass(frozen=True)
class Machine:
    """Figures from the vendor's data sheets."""

    name: str
    memory: float
    """Bytes per GPU."""
    peak: float
    """FLOP/s per GPU, dense bfloat16."""
    inside: float
    """Bytes/s that a GPU can send within a machine while receiving at the same rate."""
    between: float
    """The same between machines."""
    per_machine: int = 8
    """GPUs in a machine."""


# H100 and H200 SXM: 989 TFLOP/s dense bfloat16 (half of the figure with sparsity), NVLink 900 GB/s both ways together;
# eight ports of 400 Gbit/s for eight GPUs in the vendor's machines.
H100 = Machine("H100", 80e9, 989e12, 450e9, 50e9)
H200 = Machine("H200", 141e9, 989e12, 450e9, 50e9)


@dataclass(frozen=True)
class Size:
    """Parameters, FLOP and activation memory of a model."""

    name: str
    encoder: int
    """Parameters of the context encoder, and of the target encoder."""
    predictor: int
    """Parameters of the predictor."""
    block: int
    """Parameters of an encoder block, the unit that FSDP gathers."""
    cost: StepCost
    """FLOP per image."""
    activations: float
    """Bytes saved per image for the backward pass with bfloat16 autocast."""

    @property
    def trained(self) -> int:
        """Parameters that have a gradient."""
        return self.encoder + self.predictor


def describe(name: str, config: Config, channels: int = 3) -> Size:
    """Compute the figures of a configuration's model.

    Raises:
        ValueError: the predictor is not the shared one.
    """
    geometry = config.geometry()
    if config.model.predictor.sharing != "shared":
        raise ValueError("the scaling model supports the shared predictor only")
    masks = MaskSampler(config.masking, geometry.grid, [level.stride for level in geometry.levels], seed=config.seed)
    width, hidden = geometry.embed_dim, int(geometry.embed_dim * config.model.mlp_ratio)
    narrow = geometry.predictor_dim
    narrow_hidden = int(narrow * config.model.predictor.mlp_ratio)
    taps = len({level.depth for level in geometry.levels})
    levels = len(geometry.levels)
    block = block_parameters(width, hidden)
    encoder = (channels * math.prod(geometry.patch) + 1) * width + geometry.depth * block + 2 * width * taps
    predictor = (
        (taps * width + 1) * narrow
        + len({level.stride for level in geometry.levels}) * narrow
        + config.model.predictor.depth * block_parameters(narrow, narrow_hidden)
        + 2 * narrow
        + levels * (narrow + 1) * width
    )
    counts, sets = masks.counts, config.masking.sets_per_image
    cost = training_cost(config, channels)
    queries = sum(counts.targets[group[0]] for group in masks.groups)
    kept = activation_bytes(
        counts.context,
        queries,
        sum(counts.targets),
        depth=geometry.depth,
        width=width,
        hidden=hidden,
        heads=geometry.num_heads,
        taps=taps,
        patch=channels * math.prod(geometry.patch),
        predictor=(config.model.predictor.depth, narrow, narrow_hidden, geometry.predictor_heads),
        half=True,
    )
    return Size(name, encoder, predictor, block, cost, kept * sets)


def block_parameters(width: int, hidden: int) -> int:
    """Parameters of a transformer block."""
    return 4 * width + (3 * width + width) * width + 4 * width + 2 * width * hidden + hidden + width


def block_activations(
    tokens: int, width: int, hidden: int, heads: int, *, half: bool, answered: int | None = None
) -> int:
    """Bytes that a block saves per image for its backward pass.

    The residual stream and the inputs of layer norms are float32. With ``half`` the inputs of matrix products are saved
    in 16 bits. Attention saves queries, keys, values, its output and one number per head and token.

    Args:
        answered: tokens for which the block computes outputs; all if not given.
    """
    small = BF16 if half else FP32
    out = tokens if answered is None else answered
    statistics = 2 * FP32
    attention = (
        tokens * width * FP32  # input of the first norm
        + tokens * width * small  # its output
        + (out + 2 * tokens) * width * small  # queries, keys and values
        + out * width * small  # output of attention, which is the input of the projection
        + out * heads * FP32
    )
    mlp = out * width * FP32 + out * width * small + 2 * out * hidden * small
    return attention + mlp + (tokens + out) * statistics


def activation_bytes(
    context: int,
    queries: int,
    targets: int,
    *,
    depth: int,
    width: int,
    hidden: int,
    heads: int,
    taps: int,
    patch: int,
    predictor: tuple[int, int, int, int],
    half: bool,
) -> int:
    """Bytes saved per image and mask set for the backward pass.

    Args:
        context: visible tokens.
        queries: predictor queries.
        targets: predicted cells, summed over levels.
        depth, width, hidden, heads: dimensions of the encoder.
        taps: number of depths at which the encoder is read.
        patch: values in a patch.
        predictor: depth, width, hidden width and heads of the predictor.
        half: whether bfloat16 autocast is on.
    """
    small = BF16 if half else FP32
    blocks, narrow, narrow_hidden, narrow_heads = predictor
    encoder = depth * block_activations(context, width, hidden, heads, half=half) + context * patch * small
    # A tap's norm shares its input with the next block, except at the last block.
    read = context * width * FP32 + taps * context * width * small
    tokens = context + queries
    inside = (blocks - 1) * block_activations(tokens, narrow, narrow_hidden, narrow_heads, half=half)
    inside += block_activations(tokens, narrow, narrow_hidden, narrow_heads, half=half, answered=queries)
    heads_ = queries * narrow * (FP32 + small)
    # The loss saves the prediction and target of every cell in float32.
    return encoder + read + inside + heads_ + 2 * targets * width * FP32


def ddp_state(size: Size) -> float:
    """Bytes per process with DDP.

    Weights, gradients, their copies in buckets and two moments; the weights of the target encoder; and the 16-bit
    copies of all weights that autocast caches during the step.
    """
    return (3 * FP32 + FP32 + FP32) * size.trained + FP32 * size.encoder + BF16 * (size.trained + size.encoder)


def fsdp_state(size: Size, world: int) -> float:
    """Bytes per process with FSDP.

    A shard of the same state without buckets, plus three unsharded blocks with 16-bit weights and float32 gradients:
    one being computed, one prefetched, and one whose gradient is being reduced.
    """
    sharded = 4 * FP32 * size.trained + FP32 * size.encoder
    return sharded / world + 3 * (BF16 + FP32) * size.block


def ddp_volume(size: Size, world: int) -> float:
    """Bytes that a process sends, and receives, per step; a ring all-reduce forwards every gradient twice."""
    return 2 * (world - 1) / world * FP32 * size.trained


def fsdp_volume(size: Size, world: int) -> float:
    """Bytes that a process sends, and receives, per step with FSDP.

    Trained weights are gathered in 16 bits for the forward and again for the backward pass, those of the target encoder
    once; float32 gradients are reduce-scattered once.
    """
    return (world - 1) / world * ((2 * BF16 + FP32) * size.trained + BF16 * size.encoder)


def images_at_once(size: Size, machine: Machine, state: float) -> int:
    """Largest number of images in a forward and backward pass that fits into memory beside the state."""
    return max(0, int((USABLE * machine.memory - state) / size.activations))


def step_plan(size: Size, machine: Machine, world: int) -> dict[str, Any]:
    """Division, memory, communication and time of a step with the global batch on `world` GPUs."""
    state, sharded = ddp_state(size), fsdp_state(size, world)
    mine = GLOBAL_BATCH // world
    passes = 1
    # Halve data.batch_size and double training.accumulation_steps until a pass fits.
    while mine // passes > images_at_once(size, machine, state):
        passes *= 2
    bandwidth = machine.inside if world <= machine.per_machine else machine.between
    compute = mine * size.cost.total / (SHARE * machine.peak)
    return {
        "model": size.name,
        "GPUs": world,
        "images": mine // passes,
        "passes": passes,
        "state": state,
        "sharded": sharded,
        "activations": mine // passes * size.activations,
        "all": state + mine // passes * size.activations,
        "volume": ddp_volume(size, world),
        "sharded volume": fsdp_volume(size, world),
        "compute": compute,
        "exchange": ddp_volume(size, world) / bandwidth,
        "sharded exchange": fsdp_volume(size, world) / bandwidth,
    }


def images_to_hide(size: Size, machine: Machine, bandwidth: float) -> float:
    """Images per GPU and pass from which the backward pass hides the concurrent gradient exchange of DDP."""
    backward = 2 / 3 * (size.cost.context + size.cost.predictor) / (SHARE * machine.peak)
    return 2 * FP32 * size.trained / bandwidth / backward


def gpu_hours(size: Size, images: int, epochs: int, share: float, machine: Machine = H100) -> float:
    """GPU-hours of a run at a share of the peak."""
    return images * epochs * size.cost.total / (share * machine.peak) / 3600


def largest_with_ddp(machine: Machine, share: float = 0.5) -> float:
    """Parameters of an encoder, without predictor, whose state under DDP fills a given share of the memory."""
    return share * machine.memory / (7 * FP32 + BF16)
