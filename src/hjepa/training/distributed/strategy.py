"""Distribute a model over processes: replicated (DDP) or sharded (FSDP2)."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast

import torch
from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.runtime import distribution
from hjepa.runtime.dtensor import is_part

# Importing FSDP takes about half as long as importing PyTorch, so it is imported where it is used.
if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

    from hjepa.config import Config
    from hjepa.methods import Method
    from hjepa.runtime.distribution import World

log = logging.getLogger("hjepa")

Strategy = Literal["ddp", "fsdp"]

# Share of the device memory that DDP may use; the rest is for activations, which sharding does not reduce.
LARGEST_SHARE = 0.6


def ddp_bytes(model: nn.Module) -> int:
    """Bytes that every process holds under DDP: weights, and per trained weight a gradient, its share of the all-reduce
    buckets and two moments.
    """
    return sum(p.numel() * p.element_size() * (5 if p.requires_grad else 1) for p in model.parameters())


def device_bytes(device: torch.device, processes: int) -> int:
    """Memory of a GPU, or this process's share of main memory.

    Args:
        device: of this process.
        processes: number of processes on this machine.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):
        return 1 << 62  # unknown on Windows; leads to DDP, the safe choice
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


def check_strategy(config: Config, processes: int) -> None:
    """Raise `UserError` for a configuration that cannot be sharded."""
    if config.distributed.strategy != "fsdp" or processes == 1:
        return
    training = config.training
    if training.optimizer == "muon":
        raise UserError(
            "distributed.strategy: fsdp shards matrices, but training.optimizer=muon needs them whole; use adamw or ddp"
        )
    if training.use_amp and training.amp_dtype == "fp16":
        raise UserError(
            "distributed.strategy: fsdp does not support loss scaling, which training.amp_dtype=fp16 needs; use bf16 or ddp"
        )


def choose_strategy(config: Config, method: nn.Module, world: World, device: torch.device) -> Strategy:
    """The strategy of a run: as configured, or chosen by the memory that DDP needs. A single process counts as DDP."""
    wanted = config.distributed.strategy
    if world.size == 1:
        if wanted == "fsdp":
            log.info("distributed.strategy: fsdp has no effect with a single process")
        return "ddp"
    if wanted != "auto":
        return wanted
    needed, there = ddp_bytes(method), device_bytes(device, world.local_size)
    training = config.training
    if training.optimizer == "muon" or (training.use_amp and training.amp_dtype == "fp16"):
        return "ddp"
    # The smallest device decides for all processes.
    if not distribution.any_process(needed > LARGEST_SHARE * there):
        return "ddp"
    log.info(
        "distributed.strategy=auto: fsdp; DDP would need %.1f GB per process, and the device has %.1f GB",
        needed / 1e9,
        there / 1e9,
    )
    return "fsdp"


def spread(method: Method, strategy: Strategy, config: Config, device: torch.device, *, compiled: bool) -> nn.Module:
    """Distribute a method over the processes, and compile it if asked to.

    FSDP2 (`fully_shard`): one unit per transformer block of every network, and one for the rest of each network. The
    target encoder is sharded exactly like the context encoder, so that the moving average needs no communication.

    Returns:
        the module to call for a forward pass.
    """
    if strategy == "ddp":
        method.to(device)
        if compiled:
            # One by one and in place, so that parameter names do not change.
            for network in method.networks():
                network.compile(mode=config.training.compile_mode)
        if not torch.distributed.is_initialized():
            return method
        # Buffers are constants and need no broadcast; one in the forward pass would block the other processes when one
        # runs out of memory.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        keyword = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings: dict[str, Any] = {keyword: False}
        devices = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(method, device_ids=devices, **settings)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    training = config.training
    # Weights are gathered in bf16, gradients are reduced in float32; autocast decides the rest, as with DDP. Not on
    # CPUs, where norms need weights of the type of their input and communication is not the bottleneck.
    shorter = training.use_amp is True and training.amp_dtype == "bf16" and device.type == "cuda"
    half = torch.bfloat16 if shorter else None
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=None if half is None else torch.float32, cast_forward_inputs=False
    )
    for network in method.networks():
        for block in cast(nn.ModuleList, network.blocks):
            if compiled:
                # Block by block, so that FSDP's hooks between blocks stay outside the compiled graph.
                block.compile()
            fully_shard(block, mesh=mesh, mp_policy=policy)
        # A unit of its own, so that the network can compute features without the others.
        fully_shard(network, mesh=mesh, mp_policy=policy)
    fully_shard(method, mesh=mesh, mp_policy=policy)
    return method


def let_go(network: nn.Module) -> None:
    """Reshard after forward passes without a backward pass, which would otherwise keep the gathered weights."""
    if _is_in_parts(network):
        network.reshard()


def synchronise_gradients(network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a micro-batch: gradients are all-reduced only after the last one of a step."""
    if _is_in_parts(network):
        network.set_requires_gradient_sync(last)
    elif isinstance(network, nn.parallel.DistributedDataParallel) and not last:
        return cast("contextlib.AbstractContextManager[None]", network.no_sync())
    return contextlib.nullcontext()


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Norm of the whole gradient, also if it is sharded; the same in every process."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if is_part(norm) else norm


def parameter_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Norm of each parameter's gradient [P], zero where there is none. Not for sharded gradients."""
    with torch.no_grad():
        gradients = [p.new_zeros(()) if p.grad is None else p.grad for p in parameters]
        return torch.stack(torch._foreach_norm(gradients))


def _is_in_parts(network: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(network, "set_requires_gradient_sync")
