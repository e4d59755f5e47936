"""From gradients to new weights: norm, guard, clipping, optimiser, moving average."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.runtime.dtensor import local_part
from hjepa.training.distributed.strategy import Strategy, gradient_norm, parameter_norms
from hjepa.training.ema import TargetUpdate
from hjepa.training.optim.build import tell

if TYPE_CHECKING:
    from hjepa.config import TrainingConfig
    from hjepa.models import HJEPA
    from hjepa.training.guard import MicroBatch
    from hjepa.training.interval import Interval
    from hjepa.training.optim.build import OptimizerPair
    from hjepa.training.precision import Precision
    from hjepa.training.skipping import SkippedUpdates

# What is kept of updates that the host has not asked about yet stays small.
_MOST_OPEN = 64


@dataclass
class _Open:
    """An update that the device has decided on and the host has not looked at.

    Attributes:
        made: whether it was made; bool scalar on the device.
        norms: of the gradients, one per parameter [P].
        facts: for a report.
    """

    step: int
    made: Tensor
    norms: Tensor
    micro_batches: list[MicroBatch]
    facts: dict[str, Any]


class Update:
    """Clip and update; a gradient that is not finite touches neither the weights nor the target.

    Who decides that? Where the host does, it waits in every step until the device has the norm. A GPU decides by
    itself wherever the optimiser can be told in a tensor: the host goes on queueing work and learns of skipped updates
    in `settle`, at the next record. Both ways lead to the same weights, counts and reports.

    Args:
        model: with its gradients; spread over processes or not.
        optimizer: over its trained parameters.
        precision: scales float16 losses.
        config: the ``training`` section.
        strategy: how the model is spread.
        skips: counts and reports.
        late: whether the device decides; by the rule above when not given.

    Attributes:
        target: the moving average.
        lost: why the run has to stop, once it has to.
    """

    def __init__(
        self,
        model: HJEPA,
        optimizer: torch.optim.Optimizer | OptimizerPair,
        precision: Precision,
        config: TrainingConfig,
        strategy: Strategy,
        skips: SkippedUpdates,
        *,
        late: bool | None = None,
    ) -> None:
        self.target = TargetUpdate(model.context_encoder, model.target_encoder)
        self.lost: str | None = None
        if late is None:
            late = precision.device.type == "cuda" and _can_be_told(precision, strategy, skips)
        self.late = late
        self._optimizer = optimizer
        self._precision = precision
        self._limit = config.clip_grad
        self._skips = skips
        self._named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._parameters = [p for _, p in self._named]
        self._open: list[_Open] = []

    def __call__(
        self, step: int, micro_batches: list[MicroBatch], interval: Interval, *, lr: float, momentum: float
    ) -> Tensor | None:
        """Make the update of one step, or skip it.

        Args:
            step: optimiser step.
            micro_batches: of this step, on this process.
            interval: sums up the losses of updates that are made.
            lr: as the optimiser has it, for a report.
            momentum: of the moving average.

        Returns:
            the norm of the gradient before clipping; none if the update is known to be skipped.
        """
        way = self._decided_there if self.late else self._decided_here
        norm = way(step, micro_batches, interval, {"lr": lr, "momentum": momentum})
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _decided_here(
        self, step: int, micro_batches: list[MicroBatch], interval: Interval, facts: dict[str, Any]
    ) -> Tensor | None:
        self._precision.unscale(self._optimizer)
        norm = gradient_norm(self._parameters)
        finite = bool(torch.isfinite(norm))
        if finite:
            self._clip(norm)
            self._precision.step(self._optimizer)
            self._skips.in_a_row = 0
            self.target(facts["momentum"])
        if finite or self._skipped(step, micro_batches, self._broken(), facts):
            for micro in micro_batches:
                interval.add(micro.terms)
        self._precision.scaler.update()
        return norm if finite else None

    def _decided_there(
        self, step: int, micro_batches: list[MicroBatch], interval: Interval, facts: dict[str, Any]
    ) -> Tensor:
        norms = parameter_norms(self._parameters)
        norm: Tensor = torch.linalg.vector_norm(norms)
        made = torch.isfinite(norm)
        self._clip(norm)
        tell(self._optimizer, (~made).float())
        self._optimizer.step()
        self.target(facts["momentum"], made)
        for micro in micro_batches:
            interval.add(micro.terms, made)
        self._open.append(_Open(step, made, norms, micro_batches, facts))
        return norm

    @property
    def is_full(self) -> bool:
        """Whether it is time to settle."""
        return len(self._open) >= _MOST_OPEN

    def settle(self, interval: Interval) -> None:
        """Ask the device about the updates since the last time; the host waits for it. All processes do so at one step.

        Args:
            interval: the one that these updates were added to.
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
        """Note a skipped update; whether it only found the scale of a float16 loss."""
        skip = self._skips.note(step, micro_batches, broken, self._precision.scaler, **facts)
        self.lost = self.lost or skip.lost
        return skip.by_scale

    def _broken(self) -> Iterator[str]:
        """Names of the parameters whose gradients are not finite, before they are clipped."""
        for name, parameter in self._named:
            if parameter.grad is not None and not bool(torch.isfinite(local_part(parameter.grad)).all()):
                yield name

    def _clip(self, norm: Tensor) -> None:
        if self._limit is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._limit, norm)


def _can_be_told(precision: Precision, strategy: Strategy, skips: SkippedUpdates) -> bool:
    """Whether nothing forces the host to know at once: float16 scales, parts elsewhere, or a run that stops."""
    return not precision.scaler.is_enabled() and strategy == "ddp" and skips.policy == "skip"
