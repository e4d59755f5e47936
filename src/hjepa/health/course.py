"""The course of a run: every loss term, the gradient norm and online k-NN, each beside its own past."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from hjepa.health.light import Light, Sign, above, below

if TYPE_CHECKING:
    from hjepa.config.health import HealthConfig

# Records that the gradient norm is compared with; fewer than the least say nothing yet.
_GRADIENTS, _FEWEST_GRADIENTS = 50, 8
# Smoothing of loss terms, as a share of the run.
_WINDOW = 0.05
# A term that fell to less than this share of its first value is compared with that share: ratios of almost nothing jump.
_FLOOR = 0.05
# Share of the run before which a loss at its chance level says nothing.
_EARLY = 0.1


@dataclass
class _Term:
    """A loss term: its first value, its smoothed value and the lowest of those."""

    first: float
    smooth: float
    lowest: float

    def add(self, value: float, share: float) -> None:
        self.smooth += share * (value - self.smooth)
        self.lowest = min(self.lowest, self.smooth)

    @property
    def rise(self) -> float:
        """Smoothed value over the lowest; 1 or more."""
        base = max(self.lowest, _FLOOR * abs(self.first))
        return self.smooth / base if base > 0 else 1.0


@dataclass
class Course:
    """Judges every record of a run by the records before it.

    Args:
        limits: the ``health`` section.
        infonce: whether the loss is InfoNCE, whose chance level does not depend on the targets.
    """

    limits: HealthConfig
    infonce: bool = False
    _terms: dict[str, _Term] = field(default_factory=dict)
    _gradients: list[float] = field(default_factory=list)
    _highest_chance: dict[str, float] = field(default_factory=dict)
    _last_progress: float = 0.0
    _best_knn: float = 0.0

    def record(
        self,
        terms: Mapping[str, float],
        chance: Mapping[str, float],
        gradient: float | None,
        *,
        progress: float,
        warm: bool,
    ) -> list[Sign]:
        """Judge a record of training.

        Args:
            terms: ``loss`` and every term of it, by name.
            chance: chance levels of terms, by the name of the term (``loss/level_0``).
            gradient: gradient norm before clipping; None if no update was made.
            progress: share of the run that is done, 0 to 1.
            warm: whether the warm-up of the learning rate is over.

        Returns:
            what is not green.
        """
        signs = self._losses(terms, chance, progress, warm)
        signs += self._targets(chance)
        if gradient is not None:
            signs += self._gradient(gradient)
        self._last_progress = progress
        return signs

    def evaluation(self, knn: float, queries: int) -> list[Sign]:
        """Judge an online k-NN accuracy.

        Args:
            knn: accuracy, 0 to 1.
            queries: images it was measured on.
        """
        self._best_knn = max(self._best_knn, knn)
        best = self._best_knn
        # Two standard errors of a difference between two accuracies.
        noise = 2 * math.sqrt(2 * max(knn * (1 - knn), 0.01) / max(1, queries))
        if best <= 0 or best - knn <= noise:
            return []
        fall = (best - knn) / best
        text = f"online k-NN fell from {best:.1%} to {knn:.1%}"
        return _sign(above(fall, self.limits.knn), "knn", "", fall, text)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "terms": {name: [t.first, t.smooth, t.lowest] for name, t in self._terms.items()},
            "gradients": list(self._gradients),
            "chance": dict(self._highest_chance),
            "progress": self._last_progress,
            "knn": self._best_knn,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the values of a checkpoint."""
        self._terms = {name: _Term(*values) for name, values in state["terms"].items()}
        self._gradients = list(state["gradients"])
        self._highest_chance = dict(state["chance"])
        self._last_progress = state["progress"]
        self._best_knn = state["knn"]

    def _losses(
        self, terms: Mapping[str, float], chance: Mapping[str, float], progress: float, warm: bool
    ) -> list[Sign]:
        signs: list[Sign] = []
        step = max(0.0, progress - self._last_progress)
        share = 1 - math.exp(-step / _WINDOW) if step > 0 else 1.0
        for name, value in terms.items():
            if not math.isfinite(value):
                signs.append(Sign(Light.RED, "finite", name, value, 0.0, f"{name} is not finite"))
                continue
            # A level's loss grows with the spread of its targets, so it is watched as a share of its chance level.
            level = chance.get(name, 0.0)
            watched = value / level if level > 0 else value
            if warm and watched > 0:
                self._terms.setdefault(name, _Term(watched, watched, watched)).add(watched, share)
            if level > 0 and warm and progress >= _EARLY:
                text = f"{name} is at {watched:.0%} of its chance level"
                found = above(watched, self.limits.chance)
                # An untrained predictor starts above chance: red is for a level that was below and lost it.
                if found[0] is Light.RED and self._terms[name].lowest > self.limits.chance[0]:
                    found = Light.AMBER, self.limits.chance[0]
                signs += _sign(found, "chance", name, watched, text)
            # The total rises with the chance level of its parts, which are watched one by one.
            if not warm or watched <= 0 or (name == "loss" and len(terms) > 1):
                continue
            term = self._terms[name]
            text = f"{name} rose to {term.rise:.2f} times its lowest value"
            signs += _sign(above(term.rise, self.limits.rise), "rise", name, term.rise, text)
        return signs

    def _targets(self, chance: Mapping[str, float]) -> list[Sign]:
        signs: list[Sign] = []
        for name, level in chance.items():
            highest = self._highest_chance[name] = max(level, self._highest_chance.get(name, level))
            if self.infonce or highest <= 0:
                continue
            share = level / highest
            text = f"the targets of {name} have become alike: chance level at {share:.0%} of its highest value"
            signs += _sign(below(share, self.limits.shrunk), "shrunk", name, share, text)
        return signs

    def _gradient(self, norm: float) -> list[Sign]:
        if not math.isfinite(norm):
            return [Sign(Light.RED, "finite", "gradient", norm, 0.0, "the gradient is not finite")]
        signs: list[Sign] = []
        usual = median(self._gradients) if len(self._gradients) >= _FEWEST_GRADIENTS else 0.0
        if usual > 0:
            ratio = norm / usual
            text = f"the gradient norm is {ratio:.0f} times its median"
            signs = _sign(above(ratio, self.limits.gradient), "gradient", "", ratio, text)
        self._gradients = [*self._gradients, norm][-_GRADIENTS:]
        return signs


def _sign(found: tuple[Light, float], figure: str, where: str, value: float, text: str) -> list[Sign]:
    return [] if found[0] is Light.GREEN else [Sign(found[0], figure, where, value, found[1], text)]
