"""The health of a run from its first step to its last: what is not green, and when actions are due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hjepa.health.course import Course, Interval
from hjepa.health.light import Health, Light, Sign, feature_signs
from hjepa.health.measures import LevelMeasures

if TYPE_CHECKING:
    from hjepa.config.health import HealthConfig


@dataclass(frozen=True)
class Change:
    """A change of the light.

    Attributes:
        before: the light until now.
        health: the state now.
    """

    before: Light
    health: Health


class Monitor:
    """Judges records and evaluations as they come.

    Args:
        limits: the ``health`` section.
        infonce: whether the loss is InfoNCE.

    Attributes:
        untrained: measures of the untrained encoder; None until they are known, and ranks are not judged until then.
    """

    def __init__(self, limits: HealthConfig, *, infonce: bool = False) -> None:
        self.limits = limits
        self.untrained: list[LevelMeasures] | None = None
        self._course = Course(limits, infonce)
        # What the last record and the last evaluation showed, and how many of each were red in a row.
        self._signs: dict[str, tuple[Sign, ...]] = {"record": (), "evaluation": ()}
        self._red = {"record": 0, "evaluation": 0}
        self._acted = False
        self._told = Light.GREEN

    @property
    def health(self) -> Health:
        """The state after the last record and the last evaluation."""
        return Health().and_([*self._signs["record"], *self._signs["evaluation"]])

    def record(self, interval: Interval) -> Health:
        """Judge a record of training."""
        return self._see("record", self._course.record(interval))

    def evaluation(self, levels: Sequence[LevelMeasures], knn: float | None = None, queries: int = 0) -> Health:
        """Judge an online evaluation.

        Args:
            levels: measures of the features of every level.
            knn: k-NN accuracy, 0 to 1; None without labels.
            queries: images that it was measured on.
        """
        signs = feature_signs(levels, self.untrained, self.limits)
        if knn is not None:
            signs += self._course.evaluation(knn, queries)
        return self._see("evaluation", signs)

    def _see(self, kind: str, signs: Sequence[Sign]) -> Health:
        self._signs[kind] = tuple(signs)
        red = any(sign.light is Light.RED for sign in signs)
        self._red[kind] = self._red[kind] + 1 if red else 0
        if not any(self._red.values()):
            self._acted = False
        return self.health

    def change(self) -> Change | None:
        """The change of the light since the last call; None if it is the same."""
        health, before = self.health, self._told
        if health.light is before:
            return None
        self._told = health.light
        return Change(before, health)

    def due(self) -> Health | None:
        """The state to act on, once per red phase, when it has been red for `health.patience` readings; else None."""
        if self._acted or max(self._red.values()) < self.limits.patience:
            return None
        self._acted = True
        return self.health

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "untrained": None if self.untrained is None else [asdict(level) for level in self.untrained],
            "course": self._course.state(),
            "signs": {kind: [sign.as_dict() for sign in signs] for kind, signs in self._signs.items()},
            "red": dict(self._red),
            "acted": self._acted,
            "told": int(self._told),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the values of a checkpoint."""
        before = state["untrained"]
        self.untrained = None if before is None else [LevelMeasures(**level) for level in before]
        self._course.restore(state["course"])
        self._signs = {kind: tuple(map(Sign.from_dict, signs)) for kind, signs in state["signs"].items()}
        self._red = dict(state["red"])
        self._acted = state["acted"]
        self._told = Light(state["told"])
