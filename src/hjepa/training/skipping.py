"""What happens when an update has to be thrown away because its loss or gradient is not finite."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from hjepa.runtime import distribution
from hjepa.training import guard

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("hjepa")

# So many updates in a row that had to be thrown away mean that the run is lost.
_MOST_SKIPPED = 10
# A healthy float16 run settles on a loss scale far above this.
_LEAST_SCALE = 1.0


class Skip(NamedTuple):
    """What an update that is not made means.

    Attributes:
        by_scale: it only found the scale of a float16 loss.
        lost: why the run has to stop, if it has to; the last good state is to be saved before that is raised.
    """

    by_scale: bool = False
    lost: str | None = None


class SkippedUpdates:
    """Counts updates that were not made, reports them, and says when the run is lost.

    Args:
        policy: `skip` goes on, `stop` ends the run at the first.
        run_dir: the run folder, for reports.
        identifiers: names of the images by index.
        rank: this process.

    Attributes:
        count: all of the run.
        in_a_row: since the last update that was made.
    """

    def __init__(self, policy: Literal["skip", "stop"], run_dir: Path, identifiers: Sequence[str], rank: int) -> None:
        self.policy = policy
        self.count = 0
        self.in_a_row = 0
        self._reports = guard.TroubleReports(run_dir, identifiers, rank)

    def note(
        self,
        step: int,
        micro_batches: Sequence[guard.MicroBatch],
        broken: Iterable[str],
        scaler: torch.amp.GradScaler,
        **facts: Any,
    ) -> Skip:
        """Count an update that is not made, and say what was wrong. All processes of a run call it alike.

        Args:
            step: optimiser step.
            micro_batches: of this step, on this process.
            broken: names of the parameters whose gradients are not finite, see `hjepa.training.guard`.
            scaler: of the loss.
            facts: plain values for the report.
        """
        self.count += 1
        if scaler.is_enabled() and scaler.get_scale() > _LEAST_SCALE and not _any_loss_broken(micro_batches):
            # A GradScaler finds its scale by overshooting; that is no news.
            return Skip(by_scale=True)
        self.in_a_row += 1
        found = self._reports.write(step, micro_batches, broken, loss_scale=scaler.get_scale(), **facts)
        log.warning("step %d: %s; the update is skipped", step, found)
        advice = "lower training.lr, set training.clip_grad, or look for broken images with `hjepa data check`"
        if self.policy == "stop":
            return Skip(lost=f"step {step}: {found}; stopped before the update (training.non_finite=stop); {advice}")
        if self.in_a_row < _MOST_SKIPPED:
            return Skip()
        return Skip(lost=f"step {step}: the gradient was not finite {_MOST_SKIPPED} times in a row ({found}); {advice}")


def _any_loss_broken(micro_batches: Sequence[guard.MicroBatch]) -> bool:
    return distribution.any_process(not all(bool(torch.isfinite(micro.terms.total)) for micro in micro_batches))
