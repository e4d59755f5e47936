"""``health``: what counts as trouble in a run, and what to do about it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from hjepa.config.base import Section

HealthAction = Literal["save", "lower_lr", "raise_momentum", "rewind", "stop"]


def _falling(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] >= limits[1] >= 0:
        raise ValueError(f"[{limits[0]:g}, {limits[1]:g}]: amber comes first and red below it, both at least 0")
    return limits


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= limits[0] <= limits[1]:
        raise ValueError(f"[{limits[0]:g}, {limits[1]:g}]: amber comes first and red above it, both at least 0")
    return limits


Below = Annotated[tuple[float, float], AfterValidator(_falling)]
"""Amber and red below these values."""
Above = Annotated[tuple[float, float], AfterValidator(_rising)]
"""Amber and red above these values."""


class EmailConfig(Section):
    """Alerts by e-mail (SMTP)."""

    to: list[str] = Field(default_factory=list)
    """Addresses that receive alerts; none when empty."""
    sender: str = "hjepa@localhost"
    """Address of the sender."""
    server: str = "localhost"
    """SMTP server."""
    port: int = Field(default=25, ge=1, le=65535)
    """Port of the server."""
    security: Literal["none", "starttls", "tls"] = "none"
    """Encryption of the connection."""
    user: str | None = None
    """Name to log in with; no login when not given."""
    password_variable: str = "HJEPA_SMTP_PASSWORD"
    """Environment variable that holds the password, so that it is in no file."""


class HealthConfig(Section):
    """The health of a run: limits of amber and red, and actions.

    Every measure of the features is compared with that of the untrained encoder on the same images. What is normal
    depends on width and data: on handwritten digits, two images have a cosine of 0.995 before training.
    """

    images: int = Field(default=1000, ge=2)
    """Validation images whose features are measured, or training images if there are no validation images; fixed over
    the run."""
    spread: Below = (0.2, 0.05)
    """Amber and red below this share of the untrained encoder's spread: the standard deviation of pooled features between
    images over their size."""
    rank: Below = (0.8, 0.5)
    """Amber and red below this share of the untrained encoder's effective rank (RankMe)."""
    lidar: Below = (0.8, 0.5)
    """Amber and red below this share of the untrained encoder's LiDAR."""
    cosine: Below = (0.05, 0.005)
    """Amber and red below this share of the untrained encoder's 1 - mean cosine between pooled features of different
    images."""
    position: Below = (0.3, 0.05)
    """Amber and red below this share of the untrained encoder's 1 - p, where p is the share of the variance of cell
    features that the position of a cell explains."""
    chance: Above = (0.97, 1.1)
    """Amber and red above this ratio of a level's loss to its chance level, after the warm-up."""
    diverging: Above = (3.0, 10.0)
    """Amber and red above this ratio of a level's loss to its highest chance level so far, from the first record on."""
    shrunk: Below = (0.2, 0.05)
    """Amber and red below this share of a level's highest chance level so far: its targets have become alike. Not used
    with InfoNCE, whose chance level does not depend on the targets."""
    rise: Above = (1.3, 2.0)
    """Amber and red above this ratio of a level's loss over chance, smoothed over a twentieth of the run, to its own
    lowest value."""
    rise_of_terms: Above = (10.0, 50.0)
    """The same for terms without a chance level; a lowest value below 5 % of the whole loss counts as that. The covariance term rises to two to six times its lowest value in
    healthy runs, as features spread out."""
    gradient: Above = (10.0, 100.0)
    """Amber and red above this ratio of the gradient norm to its median over the last records."""
    knn: Above = (0.1, 0.3)
    """Amber and red above this fall of the online k-NN accuracy from its best, as a share of the best, beyond noise."""
    patience: int = Field(default=2, ge=1)
    """Evaluations in a row that must be red before actions are taken."""
    actions: list[HealthAction] = Field(default_factory=list)
    """What to do on red, in this order, once per red phase: `save` a checkpoint; `lower_lr`: learning rate x 0.1;
    `raise_momentum`: the distance of the EMA momentum from 1 x 0.1; `rewind`: load the last checkpoint whose health was
    not red, and go on with learning rate x 0.1; `stop`. Red is logged and reported in any case."""
    webhook: str | None = Field(default=None, pattern=r"^https?://")
    """Address that receives a JSON message (`{"text": …}`, as Slack expects) when the light turns red or green again."""
    email: EmailConfig = Field(default_factory=EmailConfig)
    """Alerts by e-mail."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.actions)) != len(self.actions):
            raise ValueError(f"actions: {', '.join(self.actions)}: list each action once")
        return self
