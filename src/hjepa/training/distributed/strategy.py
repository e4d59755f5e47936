"""How a model is spread over processes: a copy in each (DDP), or a part in each (FSDP2)."""

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

# What FSDP is made of costs about half as much to import as PyTorch itself: it is, where it is used.
if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

    from hjepa.config import Config
    from hjepa.methods import Method
    from hjepa.runtime.distribution import World

log = logging.getLogger("hjepa")

Strategy = Literal["ddp", "fsdp"]

# The rest is for activations, which no strategy makes smaller.
LARGEST_SHARE = 0.6


def ddp_bytes(model: nn.Module) -> int:
    """Bytes that every process keeps under DDP: weights, and per trained weight a gradient, its place in the exchange
    and two moments.
    """
    return sum(p.numel() * p.element_size() * (5 if p.requires_grad else 1) for p in model.parameters())


def device_bytes(device: torch.device, processes: int) -> int:
    """Memory of the device; of main memory, this process's part.

    Args:
        device: of this process.
        processes: on this machine.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):
        return 1 << 62  # Windows does not say; DDP is the safe choice.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


def check_strategy(config: Config, processes: int) -> None:
    """Raise `UserError` for what cannot be spread over processes."""
    if config.distributed.strategy != "fsdp" or processes == 1:
        return
    training = config.training
    if training.optimizer == "muon":
        raise UserError(
            "distributed.strategy: fsdp cuts matrices in pieces, and training.optimizer=muon needs them whole; use adamw or ddp"
        )
    if training.use_amp and training.amp_dtype == "fp16":
        raise UserError(
            "distributed.strategy: fsdp does not scale losses, which training.amp_dtype=fp16 needs; use bf16 or ddp"
        )


def choose_strategy(config: Config, method: nn.Module, world: World, device: torch.device) -> Strategy:
    """The strategy of a run: as configured, or by what DDP would keep; one process needs none and counts as DDP."""
    wanted = config.distributed.strategy
    if world.size == 1:
        if wanted == "fsdp":
            log.info("distributed.strategy: one process holds everything; fsdp begins with two")
        return "ddp"
    if wanted != "auto":
        return wanted
    needed, there = ddp_bytes(method), device_bytes(device, world.local_size)
    training = config.training
    if training.optimizer == "muon" or (training.use_amp and training.amp_dtype == "fp16"):
        return "ddp"
    # The smallest device decides for all.
    if not distribution.any_process(needed > LARGEST_SHARE * there):
        return "ddp"
    log.info(
        "distributed.strategy=auto: fsdp; DDP would keep %.1f GB in each process of %.1f GB on its device",
        needed / 1e9,
        there / 1e9,
    )
    return "fsdp"


def spread(method: Method, strategy: Strategy, config: Config, device: torch.device, *, compiled: bool) -> nn.Module:
    """Spread a method over the processes; in one process there is nothing to do but to compile it.

    FSDP2 (`fully_shard`): one unit per transformer block of every network, one for what else
    the network has. The
    target encoder is spread exactly as the context encoder is, so that its moving average needs no exchange.

    Returns:
        what the forward pass goes through.
    """
    if strategy == "ddp":
        method.to(device)
        if compiled:
            # One by one and in place, so that names of weights stay as they are.
            for network in method.networks():
                network.compile(mode=config.training.compile_mode)
        if not torch.distributed.is_initialized():
            return method
        # Buffers are constants. Exchanging them in the forward pass would leave others waiting for a process that has run
        # out of memory in its own.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        keyword = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings: dict[str, Any] = {keyword: False}
        devices = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(method, device_ids=devices, **settings)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    training = config.training
    # Weights travel in half the bytes; gradients are summed in float32. Autocast decides the rest, as it does with DDP.
    # (On a CPU, norms need their weights in the type of what they normalise, and there is no exchange to shorten.)
    shorter = training.use_amp is True and training.amp_dtype == "bf16" and device.type == "cuda"
    half = torch.bfloat16 if shorter else None
    policy = MixedPrecisionPolicy(
        param_dtype=half, reduce_dtype=None if half is None else torch.float32, cast_forward_inputs=False
    )
    for network in method.networks():
        for block in cast(nn.ModuleList, network.blocks):
            if compiled:
                # Around what FSDP does between blocks, which a compiler would only trip over.
                block.compile()
            fully_shard(block, mesh=mesh, mp_policy=policy)
        # A unit of its own, so that it can be asked for features without the rest.
        fully_shard(network, mesh=mesh, mp_policy=policy)
    fully_shard(method, mesh=mesh, mp_policy=policy)
    return method


def let_go(network: nn.Module) -> None:
    """After passes that no backward pass followed: give back what was gathered, so that each process holds its part again."""
    if _is_in_parts(network):
        network.reshard()


def synchronise_gradients(network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a micro-batch's passes: gradients are exchanged only after the last one of a step."""
    if _is_in_parts(network):
        network.set_requires_gradient_sync(last)
    elif isinstance(network, nn.parallel.DistributedDataParallel) and not last:
        return cast("contextlib.AbstractContextManager[None]", network.no_sync())
    return contextlib.nullcontext()


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Norm of the gradient, over all parts of it; the same in every process."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if is_part(norm) else norm


def parameter_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Norm of the gradient of each parameter [P], zero where there is none. For gradients in one piece."""
    with torch.no_grad():
        gradients = [p.new_zeros(()) if p.grad is None else p.grad for p in parameters]
        return torch.stack(torch._foreach_norm(gradients))


def _is_in_parts(network: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(network, "set_requires_gradient_sync")
