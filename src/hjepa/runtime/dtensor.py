"""Tensors of which each process holds a part (DTensor), and tensors in one piece, behind one face."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; shares its memory."""
    return tensor.to_local() if is_part(tensor) else tensor


def spread_like(whole: Tensor, own: Tensor) -> Tensor:
    """This process's part of a tensor that every process holds whole, spread as another one of its shape is."""
    if not is_part(own) or is_part(whole) or whole.shape != own.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def is_part(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is one of which this process holds a part."""
    return hasattr(tensor, "device_mesh")
