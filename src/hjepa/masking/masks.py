"""Masks as integer indices of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """Which tokens are visible and which cells are predicted.

    Several mask sets per image are folded into the batch axis, set by set: row ``k * B + b`` belongs to image ``b``.

    Attributes:
        context: int64 [K * B, Nc], row-major indices on the token grid, ascending in each row.
        targets: per level int64 [K * B, Nt], row-major indices on *that level's* grid, ascending in each row.
        groups: levels with the same targets, for which a shared predictor needs only one set of queries.
        sets_per_image: K.
    """

    context: Tensor
    targets: tuple[Tensor, ...]
    groups: tuple[tuple[int, ...], ...]
    sets_per_image: int = 1

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        device = torch.device(device)

        def send(indices: Tensor) -> Tensor:
            # Pinned memory makes the copy to a GPU asynchronous.
            return (indices.pin_memory() if device.type == "cuda" else indices).to(device, non_blocking=True)

        moved: list[Tensor] = list(self.targets)
        for group in self.groups:
            target = send(self.targets[group[0]])
            for level in group:
                moved[level] = target
        context = send(self.context)
        return Masks(context, tuple(moved), self.groups, self.sets_per_image)
