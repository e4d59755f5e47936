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


# Spread of features that are the same for all images, up to rounding.
_CONSTANT = 1e-6


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
        signs: what is not green, worst first, and of equal ones the most telling first.
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
        """This state with further signs, of equal ones the most telling first."""
        return Health(tuple(sorted([*self.signs, *signs], key=lambda sign: (-sign.light, _telling(sign.figure)))))


# What explains the others comes first: where all images have the same features, their rank and the targets shrink as well.
_TELLING = ("finite", "diverging", "position", "spread", "cosine", "rank", "lidar", "shrunk", "rise", "chance")


def _telling(figure: str) -> int:
    return _TELLING.index(figure) if figure in _TELLING else len(_TELLING)


def below(figure: str, where: str, value: float, limits: tuple[float, float], text: str) -> list[Sign]:
    """The sign of a figure that is bad when small; none if it is green."""
    amber, red = limits
    if value < red:
        return [Sign(Light.RED, figure, where, value, red, text)]
    return [Sign(Light.AMBER, figure, where, value, amber, text)] if value < amber else []


def above(figure: str, where: str, value: float, limits: tuple[float, float], text: str) -> list[Sign]:
    """The sign of a figure that is bad when large; none if it is green."""
    amber, red = limits
    if value > red:
        return [Sign(Light.RED, figure, where, value, red, text)]
    return [Sign(Light.AMBER, figure, where, value, amber, text)] if value > amber else []


def feature_signs(
    levels: Sequence[LevelMeasures], untrained: Sequence[LevelMeasures] | None, limits: HealthConfig
) -> list[Sign]:
    """Judge the features of all levels.

    Args:
        levels: measures of the trained encoder.
        untrained: those of the untrained encoder on the same images; without them only features that are constant or not
            finite are a sign.
        limits: the ``health`` section.
    """
    signs: list[Sign] = []
    for number, level in enumerate(levels):
        where = f"level {number}"
        if not level.finite:
            signs.append(Sign(Light.RED, "finite", where, 0.0, 0.0, f"the features at {where} are not finite"))
        elif level.spread < _CONSTANT and level.images > 1:
            text = f"all images have the same features at {where}"
            signs.append(Sign(Light.RED, "spread", where, level.spread, _CONSTANT, text))
        if level.finite and untrained is not None and untrained[number].finite:
            signs += _compared(level, untrained[number], where, limits)
    return signs


def _compared(now: LevelMeasures, before: LevelMeasures, where: str, limits: HealthConfig) -> list[Sign]:
    """The signs of a level beside the untrained encoder."""
    signs: list[Sign] = []
    for figure, pair, values, text in (
        ("spread", limits.spread, (now.spread, before.spread), f"spread between images at {where}"),
        ("rank", limits.rank, (now.rank, before.rank), f"effective rank at {where}"),
        ("lidar", limits.lidar, (now.lidar, before.lidar), f"LiDAR rank at {where}"),
        ("cosine", limits.cosine, (now.distance, before.distance), f"1 - cosine between images at {where}"),
        ("position", limits.position, (now.content, before.content), f"variance that position leaves at {where}"),
    ):
        value, normal = values
        if value is None or not normal:
            continue
        share = value / normal
        said = f"the {text} is {value:.3g}, {share:.0%} of the untrained encoder's {normal:.3g}"
        signs += below(figure, where, share, pair, said)
    return signs
