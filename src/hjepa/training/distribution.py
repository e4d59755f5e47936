"""Several processes: start, identity, and what they exchange besides gradients."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hjepa.errors import UserError

if TYPE_CHECKING:
    from hjepa.config import DistributedConfig

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """Where this process stands among all.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


def read_world(config: DistributedConfig) -> World:
    """Read what `torchrun` has put into the environment.

    Raises:
        UserError: several processes are asked for and none were started.
    """
    if "WORLD_SIZE" not in os.environ:
        if config.enabled:
            raise UserError(
                "distributed.enabled: true, but only one process was started; use "
                "`torchrun --nproc-per-node N -m hjepa train ...` or set distributed.enabled=false"
            )
        return World()
    return World(
        int(os.environ["RANK"]),
        int(os.environ["WORLD_SIZE"]),
        int(os.environ.get("LOCAL_RANK", "0")),
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def start(config: DistributedConfig, world: World, device: torch.device) -> None:
    """Join the process group."""
    if world.size == 1 or dist.is_initialized():
        return
    backend = config.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and device.type != "cuda":
        raise UserError(f"distributed.backend: nccl needs CUDA devices and this process uses {device.type}; use gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, rank=world.rank, world_size=world.size)


def stop() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    if not dist.is_initialized():
        return flag
    votes: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(votes, flag)
    return any(votes)


def from_main(value: Value) -> Value:
    """The main process's value, in every process."""
    if not dist.is_initialized():
        return value
    told: list[Value | None] = [value]
    dist.broadcast_object_list(told, src=0)
    return cast(Value, told[0])


def mean_over_processes(values: Tensor) -> Tensor:
    """Average of a tensor over processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


class _Gather(torch.autograd.Function):
    """All rows of all processes; the gradient of each row goes back to the process it came from."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # noqa: ARG004 (PyTorch's signature)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:  # noqa: ARG004 (PyTorch's signature)
        # Every process computes the same loss on the same rows and DDP averages gradients over processes, so the
        # local rows' gradient is multiplied by their number to come out as in one process.
        size, rank = dist.get_world_size(), dist.get_rank()
        return grad.chunk(size)[rank] * size


def gather_rows(x: Tensor) -> Tensor:
    """Rows [B, D] of all processes, [world * B, D], with gradient."""
    if not dist.is_initialized():
        return x
    return cast(Tensor, _Gather.apply(x))


def synchronise_gradients(network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Context of a backward pass: gradients are exchanged only after the last micro-batch of a step."""
    if isinstance(network, nn.parallel.DistributedDataParallel) and not last:
        return cast("contextlib.AbstractContextManager[None]", network.no_sync())
    return contextlib.nullcontext()
