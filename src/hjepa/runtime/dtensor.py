"""Helpers that treat sharded tensors (DTensor) and ordinary tensors alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def local_part(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, or the tensor itself; shares memory with it."""
    return tensor.to_local() if is_part(tensor) else tensor


def spread_like(whole: Tensor, own: Tensor) -> Tensor:
    """Shard ``whole``, which every process holds, in the same way as ``own``, of equal shape."""
    if not is_part(own) or is_part(whole) or whole.shape != own.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is sharded."""
    return hasattr(tensor, "device_mesh")
