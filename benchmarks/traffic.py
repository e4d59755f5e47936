"""Counts the FLOP and the bytes read and written by every operation, forward and backward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Traffic(TorchDispatchMode):
    """While active, adds up FLOP of matrix products and bytes of tensors that operations read and write, by stage.

    The bytes assume that nothing is cached and no operations are fused. They are an upper bound on memory traffic, and
    close to it for element-wise operations on large tensors. Views move no data and are not counted.

    Attributes:
        stage: the stage to which operations are currently added.
        flop, bytes: sums by stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = "other"
        self.flop: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flop[self.stage] += count(*args, **kwargs, out_val=out)
        if not func.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes[self.stage] += sum(t.numel() * t.element_size() for t in tensors)
        return out
