"""The health light: green, amber or red, from measures of features and records of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hjepa.config.health import HealthConfig
    from hjepa.health.measures import LevelMeasures


class Light(IntEnum):
    """How a figure stands; a larger number is worse."""

    GREEN = 0
    AMBER = 1
    RED = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Sign:
    """One figure that is not green.

    Attributes:
        light: amber or red.
        figure: which limit of the configuration it crosses: ``rank``, ``gradient`` and so on; ``finite`` has none.
        where: level or loss term; empty for figures of the whole run.
        value: the figure.
        limit: the limit that it crosses.
        text: what it means, in a sentence without a full stop.
    """

    light: Light
    figure: str
    where: str
    value: float
    limit: float
    text: str

    @property
    def rule(self) -> str:
        """The rule that it breaks: ``health.rank: red below 0.5``."""
        if self.figure == "finite":
            return "must be finite"
        side = "below" if self.value < self.limit else "above"
        return f"health.{self.figure}: {self.light} {side} {self.limit:g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "light": str(self.light),
            "figure": self.figure,
            "where": self.where,
            "value": self.value,
            "limit": self.limit,
            "text": self.text,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sign:
        """The sign that `as_dict` described."""
        return cls(**{**values, "light": Light[str(values["light"]).upper()]})


@dataclass(frozen=True)
class Health:
    """The state of a run.

    Attributes:
        signs: what is not green, worst first.
    """

    signs: tuple[Sign, ...] = ()

    @property
    def light(self) -> Light:
        """The worst of all signs."""
        return max((sign.light for sign in self.signs), default=Light.GREEN)

    @property
    def reason(self) -> str:
        """The worst sign in words; empty for green."""
        return self.signs[0].text if self.signs else ""

    def and_(self, signs: Sequence[Sign]) -> Health:
        """This state with further signs."""
        return Health(tuple(sorted([*self.signs, *signs], key=lambda sign: -sign.light)))


def below(value: float, limits: tuple[float, float]) -> tuple[Light, float]:
    """Light of a figure that is bad when small, and the limit it crosses (that of amber for green)."""
    amber, red = limits
    return (Light.RED, red) if value < red else (Light.AMBER if value < amber else Light.GREEN, amber)


def above(value: float, limits: tuple[float, float]) -> tuple[Light, float]:
    """Light of a figure that is bad when large, and the limit it crosses (that of amber for green)."""
    amber, red = limits
    return (Light.RED, red) if value > red else (Light.AMBER if value > amber else Light.GREEN, amber)


def feature_signs(
    levels: Sequence[LevelMeasures], untrained: Sequence[LevelMeasures] | None, limits: HealthConfig
) -> list[Sign]:
    """Judge the features of all levels.

    Args:
        levels: measures of the trained encoder.
        untrained: those of the untrained encoder on the same images; without them ranks are not judged.
        limits: the ``health`` section.
    """
    signs: list[Sign] = []

    def note(found: tuple[Light, float], figure: str, where: str, value: float, text: str) -> None:
        if found[0] is not Light.GREEN:
            signs.append(Sign(found[0], figure, where, value, found[1], text))

    for number, level in enumerate(levels):
        where = f"level {number}"
        if not level.finite:
            text = f"the features of {where} are not finite"
            signs.append(Sign(Light.RED, "finite", where, 0.0, 0.0, text))
            continue
        text = f"images differ by {level.spread:.1%} of the size of their features at {where}"
        note(below(level.spread, limits.spread), "spread", where, level.spread, text)
        if level.cosine is not None:
            text = f"the features of two images at {where} have a cosine of {level.cosine:.3f} on average"
            note(above(level.cosine, limits.cosine), "cosine", where, level.cosine, text)
        if level.position is not None:
            text = f"position explains {level.position:.0%} of the variance of cell features at {where}"
            note(above(level.position, limits.position), "position", where, level.position, text)
        before = None if untrained is None else untrained[number]
        if before is None or not before.finite:
            continue
        if before.rank > 0:
            share = level.rank / before.rank
            text = f"the effective rank at {where} is {level.rank:.1f}, untrained {before.rank:.1f}"
            note(below(share, limits.rank), "rank", where, share, text)
        if level.lidar is not None and before.lidar:
            share = level.lidar / before.lidar
            text = f"the LiDAR rank at {where} is {level.lidar:.1f}, untrained {before.lidar:.1f}"
            note(below(share, limits.lidar), "lidar", where, share, text)
    return signs


def signs_from(record: Mapping[str, Any]) -> list[Sign]:
    """The signs that a record of ``metrics.jsonl`` holds."""
    return [Sign.from_dict(entry) for entry in record.get("signs", ())]
