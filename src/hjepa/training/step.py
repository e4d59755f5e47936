"""One optimiser update (gradient norm, finiteness check, clipping, step) and the sums behind a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.methods.method import check_names
from hjepa.runtime import distribution
from hjepa.runtime.dtensor import local_part
from hjepa.training.distributed.strategy import Strategy, gradient_norm, parameter_norms
from hjepa.training.optim.build import set_found_inf

if TYPE_CHECKING:
    from hjepa.config import TrainingConfig
    from hjepa.methods import Method
    from hjepa.training.nonfinite import MicroBatch, SkippedUpdates
    from hjepa.training.optim.build import OptimizerPair
    from hjepa.training.precision import Precision

# Most updates that may wait for the host to read their outcome; bounds the memory they hold.
_MOST_OPEN = 64


@dataclass
class Interval:
    """Sums since the last record, in float32; tensors stay on the device until the next record is written.

    Attributes:
        sums: of the loss and its terms, by name.
        micro_batches: number of micro-batches summed.
        waiting: seconds spent waiting for data.
        started: clock at the start of the interval.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    micro_batches: int = 0
    waiting: float = 0.0
    started: float = 0.0

    def add(self, micro: MicroBatch, made: Tensor | None = None) -> None:
        """Add a micro-batch.

        Args:
            micro: the micro-batch.
            made: whether its update is made (bool scalar), if only the device knows. If not, nothing is added, and
                `Update.settle` corrects the count later.
        """
        self.micro_batches += 1
        for name, value in {"loss": micro.total, **micro.terms}.items():
            # In float32: a bf16 sum stops growing once a term is smaller than its last bit.
            value = value.detach().float()
            value = value if made is None else torch.where(made, value, torch.zeros_like(value))
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self, diagnostics: dict[str, Tensor]) -> dict[str, float]:
        """Means over micro-batches and processes, by the names used in records.

        Args:
            diagnostics: scalars of the last micro-batch, averaged over processes only.

        Raises:
            ValueError: a diagnostic has the name of a term, or one that is reserved.
        """
        check_names(diagnostics)
        twice = sorted(self.sums.keys() & diagnostics.keys())
        if twice:
            raise ValueError(f"a method's diagnostics have the names of terms: {', '.join(twice)}; rename them")
        summed = torch.stack(list(self.sums.values())) / self.micro_batches
        extra = [value.float().reshape(1) for value in diagnostics.values()]
        numbers = distribution.mean_over_processes(torch.cat([summed, *extra])).tolist()
        return dict(zip([*self.sums, *diagnostics], numbers, strict=True))

    def state(self) -> dict[str, Any]:
        """The sums, for a checkpoint."""
        return {"sums": dict(self.sums), "micro_batches": self.micro_batches}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore the sums."""
        state = _by_name(state)
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.micro_batches = state["micro_batches"]


def mean_state(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean of the sums of several processes, used to resume with another number of processes."""
    named = [_by_name(state) for state in states]
    sums = {name: torch.stack([s["sums"][name] for s in named]).mean(dim=0) for name in named[0]["sums"]}
    return {"sums": sums, "micro_batches": named[0]["micro_batches"]}


def _by_name(state: dict[str, Any]) -> dict[str, Any]:
    """Sums by name; checkpoints of version 0.1 kept the levels in one tensor."""
    if "sums" in state:
        return state
    if state["loss"] is None:
        return {"sums": {}, "micro_batches": 0}
    levels = {f"loss/level_{i}": value for i, value in enumerate(state["levels"].unbind())}
    return {
        "sums": {"loss": state["loss"], **levels, **(state["regularisers"] or {})},
        "micro_batches": state["micro_batches"],
    }


@dataclass
class _Open:
    """An update whose outcome is on the device and has not been read by the host.

    Attributes:
        step: optimiser step.
        made: whether it was made; bool scalar on the device.
        norms: of the gradients, one per parameter [P].
        micro_batches: of this step, on this process.
        facts: values of the step, for a report.
    """

    step: int
    made: Tensor
    norms: Tensor
    micro_batches: list[MicroBatch]
    facts: dict[str, Any]


class Update:
    """Clip and update; skip the update if the gradient is not finite, so that neither weights nor target change.

    If the host decides this, it waits for the gradient norm in every step. On a GPU the decision stays on the device
    wherever the optimiser accepts it as a tensor (``found_inf``): the host keeps queueing work and reads the outcomes
    in `settle`, at the next record. Weights, counts and reports are the same either way.

    Args:
        method: the method, with its gradients; distributed or not.
        optimizer: over its trained parameters.
        precision: scales float16 losses.
        config: the ``training`` section.
        strategy: how the model is distributed.
        skips: counts and reports skipped updates.
        late: whether the device decides; chosen as described above if None.

    Attributes:
        lost: why the run must stop; None as long as it need not.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer | OptimizerPair,
        precision: Precision,
        config: TrainingConfig,
        strategy: Strategy,
        skips: SkippedUpdates,
        *,
        late: bool | None = None,
    ) -> None:
        self._method = method
        self.lost: str | None = None
        if late is None:
            late = precision.device.type == "cuda" and _device_may_decide(precision, strategy, skips)
        self.late = late
        self._optimizer = optimizer
        self._precision = precision
        self._limit = config.clip_grad
        self._skips = skips
        self._named = [(name, p) for name, p in method.weights.named_parameters() if p.requires_grad]
        self._parameters = [p for _, p in self._named]
        self._open: list[_Open] = []

    def __call__(
        self, step: int, micro_batches: list[MicroBatch], interval: Interval, facts: dict[str, float]
    ) -> Tensor | None:
        """Make the update of one step, or skip it.

        Args:
            step: optimiser step.
            micro_batches: of this step, on this process.
            interval: accumulates the losses of updates that are made.
            facts: values of the step, for a report.

        Returns:
            gradient norm before clipping; None if the update is known to be skipped.
        """
        decide = self._device_decides if self.late else self._host_decides
        norm = decide(step, micro_batches, interval, facts)
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _host_decides(
        self, step: int, micro_batches: list[MicroBatch], interval: Interval, facts: dict[str, Any]
    ) -> Tensor | None:
        self._precision.unscale(self._optimizer)
        norm = gradient_norm(self._parameters)
        finite = bool(torch.isfinite(norm))
        if finite:
            self._clip(norm)
            self._precision.step(self._optimizer)
            self._skips.in_a_row = 0
            self._method.after_update(step)
        if finite or self._skipped(step, micro_batches, self._broken(), facts):
            for micro in micro_batches:
                interval.add(micro)
        self._precision.scaler.update()
        return norm if finite else None

    def _device_decides(
        self, step: int, micro_batches: list[MicroBatch], interval: Interval, facts: dict[str, Any]
    ) -> Tensor:
        norms = parameter_norms(self._parameters)
        norm: Tensor = torch.linalg.vector_norm(norms)
        made = torch.isfinite(norm)
        self._clip(norm)
        set_found_inf(self._optimizer, (~made).float())
        self._optimizer.step()
        self._method.after_update(step, made)
        for micro in micro_batches:
            interval.add(micro, made)
        self._open.append(_Open(step, made, norms, micro_batches, facts))
        return norm

    @property
    def is_full(self) -> bool:
        """Whether `settle` must be called before the next update."""
        return len(self._open) >= _MOST_OPEN

    def settle(self, interval: Interval) -> None:
        """Read from the device which updates were skipped since the last call; blocks the host.

        All processes call it at the same step.

        Args:
            interval: the interval that these updates were added to.
        """
        if not self._open:
            return
        updates, self._open = self._open, []
        for update, made in zip(updates, torch.stack([u.made for u in updates]).tolist(), strict=True):
            if made:
                self._skips.in_a_row = 0
                continue
            interval.micro_batches -= len(update.micro_batches)
            names = zip(self._named, torch.isfinite(update.norms).tolist(), strict=True)
            broken = (name for (name, _), finite in names if not finite)
            self._skipped(update.step, update.micro_batches, broken, update.facts)

    def _skipped(
        self, step: int, micro_batches: list[MicroBatch], broken: Iterator[str], facts: dict[str, Any]
    ) -> bool:
        """Record a skipped update. Returns whether only the float16 loss scale was too high."""
        skip = self._skips.note(step, micro_batches, broken, self._precision.scaler, **facts)
        self.lost = self.lost or skip.lost
        return skip.by_scale

    def _broken(self) -> Iterator[str]:
        """Names of the parameters with non-finite gradients, before clipping."""
        for name, parameter in self._named:
            if parameter.grad is not None and not bool(torch.isfinite(local_part(parameter.grad)).all()):
                yield name

    def _clip(self, norm: Tensor) -> None:
        if self._limit is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._limit, norm)


def _device_may_decide(precision: Precision, strategy: Strategy, skips: SkippedUpdates) -> bool:
    """Whether the device may decide: no float16 loss scale, no sharded model, no stop at the first bad gradient."""
    return not precision.scaler.is_enabled() and strategy == "ddp" and skips.policy == "skip"
