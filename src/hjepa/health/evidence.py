"""The numbers on which a verdict is based."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hjepa.runs.records import Records, level_keys, series

if TYPE_CHECKING:
    from hjepa.config import Config

Reading = Literal["linear_probe", "knn"]


@dataclass(frozen=True)
class Comparison:
    """Accuracy of the trained encoder and of its controls, by linear probe or k-NN.

    Attributes:
        reading: ``linear_probe`` or ``knn``.
        name: its name in sentences.
        trained, untrained, pixels: accuracies on validation images, 0 to 1.
        images: number of validation images.
    """

    reading: Reading
    name: str
    trained: float
    untrained: float
    pixels: float
    images: int

    @property
    def over_untrained(self) -> float:
        """Difference to the untrained encoder, -1 to 1."""
        return self.trained - self.untrained

    @property
    def over_pixels(self) -> float:
        """Difference to raw pixels, -1 to 1."""
        return self.trained - self.pixels

    def noise(self, control: float) -> float:
        """Two standard errors of the difference to a control, assuming independent errors, which overestimates it."""
        variance = self.trained * (1 - self.trained) + control * (1 - control)
        return 2 * math.sqrt(variance / max(1, self.images))

    def sign(self, control: float) -> int:
        """1 above a control, -1 below it, 0 within the noise."""
        difference = self.trained - control
        return 0 if abs(difference) <= self.noise(control) else (1 if difference > 0 else -1)


@dataclass(frozen=True)
class Evidence:
    """What is known about a run at a checkpoint.

    Accuracies are those on validation images. Test accuracies are not used, because advice based on them would select
    the next run on the test set.

    Attributes:
        config: configuration of the run.
        width: feature dimension of one level.
        step: step of the checkpoint.
        records: all records of the run.
        results: contents of ``results.json``; None without that file.
        position: per level, the share of the variance of trained cell features that position explains, 0 to 1, measured
            on images outside the test split.
        run: path of the run, for commands in advice.
    """

    config: Config
    width: int
    step: int
    records: Records
    results: dict[str, Any] | None
    run: str
    position: list[float | None] = field(default_factory=list)

    @property
    def seen(self) -> Records:
        """Records up to the checkpoint."""
        return self.records.until(self.step)

    @property
    def total_steps(self) -> int | None:
        """Planned number of steps; None without records."""
        per_epoch = self.records.steps_per_epoch
        return None if per_epoch is None else round(per_epoch * self.config.training.epochs)

    @property
    def last_step(self) -> int:
        """The last step that the run is known to have reached."""
        return max([self.step, *(int(r["step"]) for r in self.records.train + self.records.evaluations)])

    @property
    def epochs(self) -> float | None:
        """Epochs up to the checkpoint; None without records."""
        per_epoch = self.records.steps_per_epoch
        return None if per_epoch is None else self.step / per_epoch

    @property
    def validation(self) -> dict[str, Any]:
        """The results on validation images; empty if there are none."""
        results = self.results or {}
        found: dict[str, Any] = results if results.get("split") == "validation" else results.get("validation", {})
        return found

    def comparison(self, reading: Reading) -> Comparison | None:
        """Compare a reading with its controls; None if it was skipped or not made on validation images."""
        scores = self.validation.get(reading, {})
        if not all(isinstance(scores.get(who), (int, float)) for who in ("trained", "untrained", "pixels")):
            return None
        name = "linear probe" if reading == "linear_probe" else f"k-NN-{scores.get('k', 20)}"
        return Comparison(
            reading,
            name,
            scores["trained"],
            scores["untrained"],
            scores["pixels"],
            int(self.validation.get("images", 0)),
        )

    @property
    def main(self) -> Comparison | None:
        """The comparison that the verdict is based on: the linear probe, else k-NN."""
        return self.comparison("linear_probe") or self.comparison("knn")

    @property
    def skipped(self) -> str | None:
        """The reason why the evaluation skipped its classification tasks; None if it did not."""
        for reading in ("linear_probe", "knn"):
            reason = (self.results or {}).get(reading, {}).get("skipped")
            if reason:
                return str(reason)
        return None

    def level_scores(self, reading: Reading, who: str = "trained") -> dict[int, float]:
        """Accuracy of each level alone on validation images, by level."""
        entries = self.validation.get(reading, {}).get("levels") or []
        return {e["level"]: e[who] for e in entries if isinstance(e.get(who), (int, float))}

    def ranks(self, who: str = "trained") -> dict[int, float]:
        """Effective rank by level, from the evaluation, or else (trained only) from the last online evaluation."""
        entries = (self.results or {}).get("rank", {}).get("levels") or []
        found = {e["level"]: e[who] for e in entries if isinstance(e.get(who), (int, float))}
        if found or who != "trained":
            return found
        evaluations = self.seen.evaluations
        last = evaluations[-1] if evaluations else {}
        return {int(key.rpartition("_")[2]): last[key] for key in level_keys([last], "rank") if last[key] is not None}

    def loss_over_chance(self) -> dict[int, float]:
        """Loss as a share of its chance level, by level, averaged over the last tenth of the records."""
        train = self.seen.train
        tail = train[-max(1, len(train) // 10) :]
        ratios: dict[int, float] = {}
        for key in level_keys(tail, "loss"):
            level = int(key.rpartition("_")[2])
            _, losses = series(tail, key)
            _, chances = series(tail, f"chance/level_{level}")
            if losses and chances and sum(chances) > 0:
                ratios[level] = (sum(losses) / len(losses)) / (sum(chances) / len(chances))
        return ratios

    def chance_course(self) -> dict[int, tuple[float, float]]:
        """By level, the highest chance level so far and its mean over the last tenth of the records."""
        train = self.seen.train
        tail = train[-max(1, len(train) // 10) :]
        course: dict[int, tuple[float, float]] = {}
        for key in level_keys(train, "chance"):
            _, everything = series(train, key)
            _, last = series(tail, key)
            if everything and last:
                course[int(key.rpartition("_")[2])] = (max(everything), sum(last) / len(last))
        return course


def percent(value: float) -> str:
    """0.4567 as 45.7%."""
    return f"{100 * value:.1f}%"


def points(difference: float) -> str:
    """0.057 as "5.7 points above", -0.02 as "2.0 points below", and "level with" if it rounds to zero."""
    size = f"{abs(100 * difference):.1f}"
    if size == "0.0":
        return "level with"
    return f"{size} point{'' if size == '1.0' else 's'} {'above' if difference > 0 else 'below'}"


def listing(words: list[str]) -> str:
    """["a", "b", "c"] as "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def levels_text(levels: list[int]) -> str:
    """[0, 2] as "levels 0 and 2"."""
    return f"level{'s' if len(levels) > 1 else ''} " + listing([str(level) for level in levels])
