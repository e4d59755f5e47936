"""Detect, count and report non-finite losses and gradients before they reach the weights."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from hjepa.runtime import distribution

if TYPE_CHECKING:
    from hjepa.data import Batch
    from hjepa.methods import StepOutput

log = logging.getLogger("hjepa")

# Limits on the number of reports, and on the parameter names in one.
_MOST_REPORTS = 20
_MOST_NAMES = 20
# After this many skipped updates in a row the run has diverged.
_MOST_SKIPPED = 10
# A stable float16 run has a loss scale far above this.
_LEAST_SCALE = 1.0


@dataclass
class MicroBatch:
    """What is kept of a forward pass for a report; all on the device, so that nothing synchronises.

    Attributes:
        indices: of the images, int64 [B].
        total: the loss, detached.
        terms: its parts by name, detached scalars.
        images: whether each image is finite, bool [B].
        checks: by stage, in the order of computation: whether each of its parts is finite, bool [n].
    """

    indices: Tensor
    total: Tensor
    terms: dict[str, Tensor]
    images: Tensor
    checks: dict[str, Tensor]


def observe(batch: Batch, output: StepOutput) -> MicroBatch:
    """Keep what a report would need."""
    return MicroBatch(
        indices=batch.indices,
        total=output.total.detach(),
        terms=output.terms,
        images=torch.stack([torch.isfinite(view.images).flatten(1).all(dim=1) for view in batch.views]).all(dim=0),
        checks=output.checks,
    )


def poison(losses: Sequence[Tensor]) -> Tensor:
    """1 if every loss is finite, else NaN: a factor for the loss of a step's last micro-batch, exact when it is 1.

    A loss can be infinite while its gradient is finite; multiplying by NaN makes the gradient non-finite too. Since
    gradients are averaged over processes, every process sees it and decides alike, without another collective.
    """
    total = torch.stack(list(losses)).sum()
    return torch.where(torch.isfinite(total), 1.0, float("nan")).to(total.dtype)


class TroubleReports:
    """Writes a report of each skipped update to ``non_finite/`` in the run folder.

    Args:
        folder: the run folder.
        identifiers: names of the images by index.
        rank: this process; each writes its own file.
    """

    def __init__(self, folder: Path, identifiers: Sequence[str], rank: int) -> None:
        self._folder = folder / "non_finite"
        self._identifiers = identifiers
        self._rank = rank
        self._written = 0

    def write(
        self,
        step: int,
        micro_batches: Sequence[MicroBatch],
        broken: Iterable[str],
        **facts: Any,
    ) -> str:
        """Write a report.

        Args:
            step: optimiser step.
            micro_batches: of this step, on this process.
            broken: names of the parameters with non-finite gradients; consumed only if no earlier stage is at fault.
            facts: plain values to add.

        Returns:
            a short description, with the path of the report if one was written.
        """
        stage, levels = _stage(micro_batches)
        found = f"not finite: {stage}" + (f" of level {', '.join(map(str, levels))}" if levels else "")
        if self._written >= _MOST_REPORTS or (stage == "gradient" and self._rank):
            return found
        self._written += 1
        report: dict[str, Any] = {"step": step, "rank": self._rank, "stage": stage, "levels": levels}
        report |= {name: _plain(value) for name, value in facts.items()}
        report["micro_batches"] = [self._describe(micro) for micro in micro_batches]
        if stage == "gradient":
            report["parameters"] = list(itertools.islice(broken, _MOST_NAMES))
        file = self._folder / f"step_{step:08d}_rank{self._rank}.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
        except OSError as error:
            log.warning("%s: cannot be written (%s)", file, error.strerror)
            return found
        return f"{found}; report in {file}"

    def _describe(self, micro: MicroBatch) -> dict[str, Any]:
        rows = zip(micro.indices.tolist(), micro.images.tolist(), strict=True)
        return {
            "loss": _plain(micro.total.item()),
            "terms": {name: _plain(value.item()) for name, value in micro.terms.items()},
            "images": [{"index": i, "file": self._identifiers[i], "finite": finite} for i, finite in rows],
        }


def _stage(micro_batches: Sequence[MicroBatch]) -> tuple[str, list[int]]:
    """The first stage that is not finite, and the indices of its non-finite parts."""
    if not all(bool(micro.images.all()) for micro in micro_batches):
        return "image", []
    for stage in micro_batches[0].checks:
        fine = torch.stack([micro.checks[stage] for micro in micro_batches]).all(dim=0)
        if not bool(fine.all()):
            return stage, _where_false(fine)
    if not bool(torch.isfinite(torch.stack([micro.total for micro in micro_batches])).all()):
        names = [name for name in micro_batches[0].terms if name.startswith("loss/level_")]
        fine = torch.tensor([all(bool(torch.isfinite(m.terms[name])) for m in micro_batches) for name in names])
        return "loss", _where_false(fine)
    return "gradient", []


def _where_false(flags: Tensor) -> list[int]:
    return [index for index, good in enumerate(flags.tolist()) if not good]


def _plain(value: Any) -> Any:
    """JSON cannot represent infinity and NaN; they become strings."""
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)


class Skip(NamedTuple):
    """What follows from a skipped update.

    Attributes:
        by_scale: only the float16 loss scale was too high.
        lost: why the run must stop; None if it need not. The caller saves the last good state before it raises.
    """

    by_scale: bool = False
    lost: str | None = None


class SkippedUpdates:
    """Counts and reports skipped updates, and decides when the run must stop.

    Args:
        policy: `skip` continues, `stop` ends the run at the first one.
        run_dir: the run folder, for reports.
        identifiers: names of the images by index.
        rank: this process.

    Attributes:
        count: skipped updates of the whole run.
        in_a_row: skipped updates since the last one that was made.
    """

    def __init__(self, policy: Literal["skip", "stop"], run_dir: Path, identifiers: Sequence[str], rank: int) -> None:
        self.policy = policy
        self.count = 0
        self.in_a_row = 0
        self._reports = TroubleReports(run_dir, identifiers, rank)

    def note(
        self,
        step: int,
        micro_batches: Sequence[MicroBatch],
        broken: Iterable[str],
        scaler: torch.amp.GradScaler,
        **facts: Any,
    ) -> Skip:
        """Count and report a skipped update. All processes of a run must call it.

        Args:
            step: optimiser step.
            micro_batches: of this step, on this process.
            broken: names of the parameters with non-finite gradients.
            scaler: the loss scaler.
            facts: plain values for the report.
        """
        self.count += 1
        if scaler.is_enabled() and scaler.get_scale() > _LEAST_SCALE and not _any_loss_broken(micro_batches):
            # A GradScaler finds its scale by overshooting; expected, not reported.
            return Skip(by_scale=True)
        self.in_a_row += 1
        found = self._reports.write(step, micro_batches, broken, loss_scale=scaler.get_scale(), **facts)
        log.warning("step %d: %s; update skipped", step, found)
        advice = "lower training.lr, set training.clip_grad, or look for broken images with `hjepa data check`"
        if self.policy == "stop":
            return Skip(lost=f"step {step}: {found}; stopped before the update (training.non_finite=stop); {advice}")
        if self.in_a_row < _MOST_SKIPPED:
            return Skip()
        return Skip(lost=f"step {step}: the gradient was not finite {_MOST_SKIPPED} times in a row ({found}); {advice}")


def _any_loss_broken(micro_batches: Sequence[MicroBatch]) -> bool:
    return distribution.any_process(not all(bool(torch.isfinite(micro.total)) for micro in micro_batches))
