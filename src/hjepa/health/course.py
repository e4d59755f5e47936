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
# A term that fell to less than this share of its first value, or of the whole loss, is compared with that share: ratios of
# almost nothing jump. The covariance of a small model was 0.3 % of the loss when features were alike at the start, and rose to
# 24 times that as they spread out.
_FLOOR = 0.05
# Share of the run before which a loss at its chance level says nothing, and after which a level that was never below it is
# stuck.
_EARLY, _HALF = 0.1, 0.5


@dataclass
class _Term:
    """A loss term: its first value, its smoothed value and the lowest of those."""

    first: float
    smooth: float
    lowest: float

    def add(self, value: float, share: float) -> None:
        self.smooth += share * (value - self.smooth)
        self.lowest = min(self.lowest, self.smooth)

    def rise(self, total: float = 0.0) -> float:
        """Smoothed value over the lowest; 1 or more.

        Args:
            total: the whole loss, if the term is a part of it; a term that was small beside it may rise.
        """
        base = max(self.lowest, _FLOOR * abs(self.first), _FLOOR * abs(total))
        return self.smooth / base if base > 0 else 1.0


@dataclass(frozen=True)
class Interval:
    """What a record of training says.

    Attributes:
        terms: ``loss`` and every term of it, by name.
        chance: chance levels of terms, by the name of the term (``loss/level_0``).
        gradient: gradient norm before clipping; None if no update was made.
        progress: share of the run that is done, 0 to 1.
        warm: whether the warm-up of the learning rate is over.
    """

    terms: Mapping[str, float]
    chance: Mapping[str, float]
    gradient: float | None
    progress: float
    warm: bool


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

    def record(self, interval: Interval) -> list[Sign]:
        """Judge a record of training; returns what is not green."""
        for name, level in interval.chance.items():
            self._highest_chance[name] = max(level, self._highest_chance.get(name, level))
        signs = self._diverging(interval) + self._losses(interval) + self._targets(interval.chance)
        if interval.gradient is not None:
            signs += self._gradient(interval.gradient)
        self._last_progress = interval.progress
        return signs

    def evaluation(self, knn: float, queries: int) -> list[Sign]:
        """Judge an online k-NN accuracy.

        Args:
            knn: accuracy, 0 to 1.
            queries: images it was measured on.
        """
        self._best_knn = max(self._best_knn, knn)
        best = self._best_knn
        # Two standard errors of a difference between two accuracies; of 0 % of a few images nothing follows.
        noise = 2 * math.sqrt(2 * max(knn * (1 - knn), best * (1 - best), 0.01) / max(1, queries))
        if best <= 0 or best - knn <= noise:
            return []
        fall = (best - knn) / best
        text = f"online k-NN fell from {best:.1%} to {knn:.1%}"
        return above("knn", "", fall, self.limits.knn, text)

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

    def _diverging(self, interval: Interval) -> list[Sign]:
        signs: list[Sign] = []
        for name in interval.chance:
            value, highest = interval.terms.get(name, math.nan), self._highest_chance[name]
            if highest > 0 and math.isfinite(value):
                # The highest, because collapsed targets make any loss many times their chance level.
                text = f"{name} is {value / highest:.1f} times the highest chance level"
                signs += above("diverging", name, value / highest, self.limits.diverging, text)
        return signs

    def _losses(self, interval: Interval) -> list[Sign]:
        signs: list[Sign] = []
        step = interval.progress - self._last_progress
        smoothing = 1 - math.exp(-step / _WINDOW) if step > 0 else 1.0
        for name, value in interval.terms.items():
            if not math.isfinite(value):
                signs.append(Sign(Light.RED, "finite", name, value, 0.0, f"{name} is not finite"))
                continue
            # A level's loss grows with the spread of its targets, so it is watched as a share of its chance level.
            level = interval.chance.get(name, 0.0)
            watched = value / level if level > 0 else value
            if not interval.warm or watched <= 0:
                continue
            term = self._terms.setdefault(name, _Term(watched, watched, watched))
            term.add(watched, smoothing)
            if level > 0 and interval.progress >= _EARLY:
                signs += self._against_chance(name, watched, term.lowest, interval.progress)
            # The total rises with the chance level of its parts, which are watched one by one.
            if name != "loss" or len(interval.terms) == 1:
                limits = self.limits.rise if level > 0 else self.limits.rise_of_terms
                figure = "rise" if level > 0 else "rise_of_terms"
                total = interval.terms.get("loss", 0.0)
                rise = term.rise(total if level <= 0 and math.isfinite(total) else 0.0)
                signs += above(figure, name, rise, limits, f"{name} rose to {rise:.2f} times its lowest value")
        return signs

    def _against_chance(self, name: str, share: float, lowest: float, progress: float) -> list[Sign]:
        amber, red = self.limits.chance
        text = f"{name} is at {share:.0%} of its chance level"
        if lowest > amber:
            text += ", below which it has never been"
            # An untrained predictor starts above chance: it has half of the run to fall below.
            red = red if progress >= _HALF else math.inf
        return above("chance", name, share, (amber, red), text)

    def _targets(self, chance: Mapping[str, float]) -> list[Sign]:
        signs: list[Sign] = []
        for name, level in chance.items():
            highest = self._highest_chance[name]
            if self.infonce or highest <= 0:
                continue
            share = level / highest
            text = f"the targets of {name} have become alike: chance level at {share:.0%} of its highest value"
            signs += below("shrunk", name, share, self.limits.shrunk, text)
        return signs

    def _gradient(self, norm: float) -> list[Sign]:
        if not math.isfinite(norm):
            return [Sign(Light.RED, "finite", "gradient", norm, 0.0, "the gradient is not finite")]
        signs: list[Sign] = []
        usual = median(self._gradients) if len(self._gradients) >= _FEWEST_GRADIENTS else 0.0
        if usual > 0:
            ratio = norm / usual
            text = f"the gradient norm is {ratio:.0f} times its median"
            signs = above("gradient", "", ratio, self.limits.gradient, text)
        self._gradients = [*self._gradients, norm][-_GRADIENTS:]
        return signs
