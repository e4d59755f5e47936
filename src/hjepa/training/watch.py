"""What the trainer does about health: judges records, tells people, and decides on actions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hjepa.health.course import Interval
from hjepa.health.light import Health, Light
from hjepa.health.monitor import Change, Monitor
from hjepa.runtime import distribution

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.config.health import HealthAction
    from hjepa.health.alerts import Alerts
    from hjepa.training.online import OnlineResult

log = logging.getLogger("hjepa")

FACTOR = 0.1
"""By which an action multiplies the learning rate, or the distance between the EMA momentum and 1."""
MOST_REWINDS = 3
"""After so many the run goes on as it is: going back has not helped."""


@dataclass(frozen=True)
class Remedies:
    """Changes that actions made to what the configuration schedules; none in a healthy run.

    Attributes:
        lr: factor of the learning rate.
        momentum_gap: factor of the distance between the EMA momentum and 1.
        rewinds: how often the run went back to an earlier checkpoint.
    """

    lr: float = 1.0
    momentum_gap: float = 1.0
    rewinds: int = 0

    def after(self, actions: tuple[HealthAction, ...]) -> Remedies:
        """The changes after further actions other than `rewind`."""
        return Remedies(
            self.lr * (FACTOR if "lower_lr" in actions else 1.0),
            self.momentum_gap * (FACTOR if "raise_momentum" in actions else 1.0),
            self.rewinds,
        )

    def after_rewind_to(self, then: Remedies) -> Remedies:
        """The changes after a rewind to a checkpoint with the changes `then`.

        With the learning rate of the first time, the same steps would lead to the same end.
        """
        return Remedies(min(self.lr, then.lr) * FACTOR, min(self.momentum_gap, then.momentum_gap), self.rewinds + 1)


class HealthWatch:
    """Judges a run and decides what to do. The main process judges for all.

    Args:
        config: the configuration.
        alerts: messages to people.
        is_main: whether this process judges.

    Attributes:
        monitor: judges records and evaluations.
        remedies: changes that actions made.
    """

    def __init__(self, config: Config, alerts: Alerts, *, is_main: bool) -> None:
        self.monitor = Monitor(config.health, infonce=config.loss.type == "infonce")
        self.remedies = Remedies()
        self.actions: tuple[HealthAction, ...] = tuple(config.health.actions)
        self._warmup = config.training.warmup_epochs
        self._alerts = alerts
        self._is_main = is_main

    def record(
        self, record: Mapping[str, Any], terms: Mapping[str, float], progress: float, *, counts: bool
    ) -> dict[str, Any]:
        """Judge a record of training.

        Args:
            record: the record.
            terms: the loss and its terms.
            progress: share of the run that is done, 0 to 1.
            counts: whether an uninterrupted run has this record too. If not, it is judged and forgotten, so that a
                resumed run takes the same actions.

        Returns:
            what to add to the record: ``health`` (green, amber or red), ``light`` (0, 1 or 2), and unless it is green
            ``signs``, those of the last evaluation included.
        """
        if not self._is_main:
            return {}
        prefix = "chance/"
        chance = {f"loss/{name[len(prefix) :]}": record[name] for name in record if name.startswith(prefix)}
        warm = record["epoch"] >= self._warmup
        health = self._monitor(counts).record(Interval(terms, chance, record["grad_norm"], progress, warm))
        return _light(health) | ({"signs": _signs(health)} if health.signs else {})

    def evaluation(self, result: OnlineResult, *, counts: bool) -> dict[str, Any]:
        """Judge an online evaluation; returns what to add to its record, with the ``signs`` that are not green."""
        values = result.values
        health = self._monitor(counts).evaluation(result.levels, values.get("knn"), int(values.get("knn_queries", 0)))
        return _light(health) | {"signs": _signs(health)}

    def _monitor(self, counts: bool) -> Monitor:
        return self.monitor if counts else copy.deepcopy(self.monitor)

    @property
    def good(self) -> bool:
        """Whether the state is one to return to. All processes must ask."""
        return distribution.from_main(self.monitor.health.light is not Light.RED)

    def verdict(self, step: int) -> Health | None:
        """After a record or an evaluation: say that the light changed. Returns the state if actions are due.

        All processes must call it after the same steps.
        """
        change = self.monitor.change() if self._is_main else None
        if change is not None:
            self._tell(change, step)
        return distribution.from_main(self.monitor.due() if self._is_main else None)

    def _tell(self, change: Change, step: int) -> None:
        health = change.health
        text = f"health {change.before} -> {health.light} at step {step}"
        if health.signs:
            text += f": {health.reason} ({health.signs[0].rule})"
        log.log(logging.INFO if health.light is Light.GREEN else logging.WARNING, "%s", text)
        if Light.RED in (change.before, health.light):
            signs = [sign.as_dict() for sign in health.signs]
            self._alerts(text, {"step": step, "health": str(health.light), "signs": signs})

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"monitor": self.monitor.state(), "remedies": asdict(self.remedies)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the values of a checkpoint."""
        self.monitor.restore(state["monitor"])
        self.remedies = Remedies(**state["remedies"])

    def close(self) -> None:
        """Wait for alerts on their way."""
        self._alerts.close()


def _signs(health: Health) -> list[dict[str, Any]]:
    return [sign.as_dict() for sign in health.signs]


def _light(health: Health) -> dict[str, Any]:
    return {"health": str(health.light), "light": int(health.light)}
