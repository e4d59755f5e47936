"""Stop a run early when online k-NN no longer rises, or when the health light stays red."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hjepa.config.training import EarlyStoppingConfig

log = logging.getLogger("hjepa")


@dataclass
class _State:
    """What a checkpoint keeps.

    Attributes:
        best: best online k-NN accuracy, 0 to 1.
        best_step: step at which it was measured.
        without_gain: evaluations since then.
        red: evaluations in a row whose light was red.
        reason: why the run stops; None as long as it need not.
    """

    best: float | None = None
    best_step: int = 0
    without_gain: int = 0
    red: int = 0
    reason: str | None = None


class EarlyStopping:
    """Follows the online evaluations of a run and says when to stop.

    Args:
        config: the section ``training.early_stopping``.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self._state = _State()

    @property
    def reason(self) -> str | None:
        """Why the run must stop; None as long as it need not."""
        return self._state.reason

    def see(self, record: Mapping[str, Any]) -> bool:
        """Take note of an online evaluation.

        Args:
            record: its record, with ``step``, ``epoch``, ``health`` and, with labels, ``knn``.

        Returns:
            whether the run must stop.
        """
        config, state = self.config, self._state
        if not config.monitor or record["epoch"] < config.start_epoch:
            return False
        self._follow(record)
        reasons = []
        if "knn" in config.monitor and state.best is not None and state.without_gain >= config.patience:
            reasons.append(
                f"online k-NN has not risen above {state.best:.1%} (step {state.best_step}) in "
                f"{_evaluations(state.without_gain)}"
            )
        if "health" in config.monitor and state.red >= config.patience:
            reasons.append(f"the health light was red in {_evaluations(state.red)} in a row")
        state.reason = "; ".join(reasons) or None
        return state.reason is not None

    def _follow(self, record: Mapping[str, Any]) -> None:
        state, knn = self._state, record.get("knn")
        state.red = state.red + 1 if record.get("health") == "red" else 0
        if knn is None and "knn" in self.config.monitor and state.best is None and not state.without_gain:
            log.warning(
                "training.early_stopping.monitor: knn needs labels, of which there are none; it is not followed"
            )
        if knn is not None and (state.best is None or knn > state.best + self.config.min_delta):
            state.best, state.best_step, state.without_gain = knn, int(record["step"]), 0
        else:
            state.without_gain += 1

    def record(self, place: Mapping[str, Any], lr: float, peak_lr: float, last_step: int) -> dict[str, Any]:
        """The record of the stop, for ``metrics.jsonl``; logs the same.

        Args:
            place: ``kind``, ``step``, ``epoch`` and ``time`` of the record.
            lr: learning rate of the last step.
            peak_lr: highest learning rate of the schedule.
            last_step: step at which the run would have ended.
        """
        state, share = self._state, lr / peak_lr
        log.warning(
            "stopped early at step %d of %d: %s (training.early_stopping)", place["step"], last_step, state.reason
        )
        log.warning(
            "the learning rate is still %.2g, %.0f%% of its peak, and features usually gain most while it decays: a run with "
            "training.epochs=%.3g, whose schedule ends here, may be better",
            lr,
            100 * share,
            place["epoch"],
        )
        stop = {"reason": state.reason, "best": state.best, "best_step": state.best_step, "last_step": last_step}
        return {**place, **stop, "lr_over_peak": share}

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self._state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the values of a checkpoint. A run that had stopped has its patience anew."""
        self._state = _State(**state)  # checkpoints of earlier versions have none
        if self._state.reason is not None:
            self._state.reason, self._state.without_gain, self._state.red = None, 0, 0


def _evaluations(count: int) -> str:
    return f"{count} evaluation{'' if count == 1 else 's'}"
