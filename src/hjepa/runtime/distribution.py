"""Multi-process runs: start-up, rank and size, and communication other than gradients."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from hjepa.errors import LostProcessError, UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from hjepa.config import DistributedConfig

Value = TypeVar("Value")

# In messages of gloo and the key-value store about a process that ended or does not answer; NCCL has its own exception.
_LOST = ("gloo", "closed by peer", "connection reset", "broken pipe", "timed out", "remote server", "socket")

# Control messages use a CPU gloo group, so they never synchronise the GPU.
_control: dist.ProcessGroup | None = None

# Seconds between two polls for processes that have joined.
_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class World:
    """Rank of this process and number of processes.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on its machine.
        restarts: how often `torchrun` has restarted the processes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0


def read_world(config: DistributedConfig) -> World:
    """Read the environment variables that `torchrun` sets.

    Raises:
        UserError: `distributed.enabled` is true, but only one process was started.
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
        int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )


def start(config: DistributedConfig, world: World, device: torch.device) -> None:
    """Join the process group. Call it inside `failing_together`."""
    global _control
    if world.size == 1 or dist.is_initialized():
        return
    backend = config.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and device.type != "cuda":
        raise UserError(f"distributed.backend: nccl needs CUDA devices and this process uses {device.type}; use gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Sharded checkpoints communicate over gloo, whatever the devices use.
    backends = "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo"
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    timeout = timedelta(seconds=config.timeout)
    store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
    store = PrefixStore(_name_of_start(store, world, config.timeout), store)
    dist.init_process_group(backends, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
    _control = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))


def _name_of_start(store: Store, world: World, timeout: float) -> str:
    """Agree on a name that is unique to this start, to separate its keys from those before a restart.

    The store may be torchrun's own, which survives a restart and still holds the addresses of processes that have
    ended. The restart count cannot serve as a name, as it differs between nodes. So every process posts a fresh random
    key, and the main process answers each with the name until all have confirmed it.

    Raises:
        LostProcessError: not all processes joined in time.
    """
    own = uuid.uuid4().hex
    if not world.is_main:
        store.set(f"hjepa/ask/{world.rank}", own)
        name = store.get(f"hjepa/answer/{own}").decode()
        store.set(f"hjepa/heard/{name}/{world.rank}", "yes")
        return name
    waiting = set(range(1, world.size))
    give_up = time.monotonic() + timeout
    while waiting:
        for rank in sorted(waiting):
            if store.check([f"hjepa/ask/{rank}"]):
                store.set(f"hjepa/answer/{store.get(f'hjepa/ask/{rank}').decode()}", own)
            if store.check([f"hjepa/heard/{own}/{rank}"]):
                waiting.discard(rank)
        if time.monotonic() > give_up:
            raise LostProcessError(
                f"process {min(waiting)} of {world.size} did not join within {timeout:g} s (distributed.timeout); see its own "
                "error message"
            )
        time.sleep(_BETWEEN_LOOKS)
    return own


def stop() -> None:
    """Leave the process group."""
    global _control
    _control = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Context that turns a collective's error about a lost process into a one-line message.

    Raises:
        LostProcessError: in place of the collective's error.
    """
    try:
        yield
    except UserError:
        raise
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        rank = os.environ.get("RANK", "?")
        line = str(error).strip().splitlines()[0]
        # gloo's messages are its source location in brackets, what happened, and general advice.
        reason = (line.rpartition("] ")[2] or line).partition(". ")[0]
        raise LostProcessError(
            f"process {rank}: another process has ended or does not answer ({reason[:160]}); see its own error message. "
            "Checkpoints are intact: continue with --resume auto"
        ) from None


def _is_lost(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    # The process group may be gone by now, so ask the environment.
    text = str(error).lower()
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(word in text for word in _LOST)


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def control_group() -> dist.ProcessGroup | None:
    """The gloo group for tensors and objects in main memory; None in a single process."""
    return _control


def barrier() -> None:
    """Wait for all processes."""
    if _control is not None:
        dist.barrier(group=_control)


def vote(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in at least one process. All processes must call it."""
    if _control is None:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_control)
    return tuple(bool(value) for value in votes.tolist())


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process."""
    return vote(flag)[0]


def from_main(value: Value) -> Value:
    """The main process's value, in every process."""
    if _control is None:
        return value
    told: list[Value | None] = [value]
    dist.broadcast_object_list(told, src=0, group=_control)
    return cast(Value, told[0])


def by_main(work: Callable[[], Value]) -> Value:
    """Run ``work`` in the main process and return its result, or raise its `UserError`, in every process."""
    if _control is None:
        return work()
    found: Value | None = None
    error: UserError | None = None
    is_main = dist.get_rank() == 0
    if is_main:
        try:
            found = work()
        except UserError as mistake:
            error = mistake
    found, error = from_main((found, error))
    if error is not None:
        error.said = not is_main
        raise error
    return cast(Value, found)


def from_all(value: Value) -> list[Value]:
    """The values of all processes, by rank, in every process."""
    if _control is None:
        return [value]
    told: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, value, group=_control)
    return cast("list[Value]", told)


def mean_over_processes(values: Tensor) -> Tensor:
    """Average of a tensor over processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def divide_work(work: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``work(rows)``, with the rows divided among the processes. All processes must call it with the same rows.

    Args:
        work: [n, ...] -> [n, ...], independent for each row.
        rows: [N, ...]; with fewer rows than processes, every process computes all of them.
    """
    processes = size()
    if processes == 1 or len(rows) < processes:
        return work(rows)
    share = -(-len(rows) // processes)
    first = min(rank() * share, len(rows) - share)
    own = work(rows[first : first + share]).contiguous()
    parts = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(parts, own)
    # If the rows do not divide evenly, the last share starts earlier and overlaps the one before.
    done = torch.empty((len(rows), *own.shape[1:]), dtype=own.dtype, device=own.device)
    for process, part in enumerate(parts):
        first = min(process * share, len(rows) - share)
        done[first : first + share] = part
    return done


class _Gather(torch.autograd.Function):
    """All-gather of rows; the gradient of each row returns to its own process."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:  # noqa: ARG004 (PyTorch's signature)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:  # noqa: ARG004 (PyTorch's signature)
        # Every process computes the same loss on all rows, and DDP averages gradients over processes. Multiplying the
        # local rows' gradient by the number of processes gives the same result as one process would.
        size, rank = dist.get_world_size(), dist.get_rank()
        return grad.chunk(size)[rank] * size


def gather_constant(x: Tensor) -> Tensor:
    """Rows [B, ...] of all processes, by rank, [world * B, ...], without gradient. All processes must call it."""
    if not dist.is_initialized():
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def gather_rows(x: Tensor) -> Tensor:
    """Rows [B, D] of all processes, by rank, [world * B, D], with gradient."""
    if not dist.is_initialized():
        return x
    return cast(Tensor, _Gather.apply(x))
