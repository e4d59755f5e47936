"""The numbers that a verdict rests on, gathered in one place."""

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
    """One reading of the trained encoder beside its controls; accuracies between 0 and 1.

    Attributes:
        reading: which.
        name: for sentences.
        trained, untrained, pixels: accuracies on validation images.
        images: validation images.
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
        """Two standard errors of the difference to a control, as if the two erred independently: an upper bound."""
        variance = self.trained * (1 - self.trained) + control * (1 - control)
        return 2 * math.sqrt(variance / max(1, self.images))

    def sign(self, control: float) -> int:
        """1 above a control, -1 below it, 0 within the noise."""
        difference = self.trained - control
        return 0 if abs(difference) <= self.noise(control) else (1 if difference > 0 else -1)


@dataclass(frozen=True)
class Evidence:
    """What is known of a run at a checkpoint.

    Accuracies are those on validation images. Those on test are shown elsewhere and never judged here: advice drawn from
    them would choose the next run by test.

    Attributes:
        config: configuration of the run.
        width: width of one level's features.
        step: step of the checkpoint.
        records: all records of the run.
        results: contents of ``results.json``; nothing without that file.
        position: per level, share of the trained cell features' variance that position explains, on images that are
            not test images.
        run: how the command line names the run.
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
        """Steps that the configuration plans; nothing without records."""
        per_epoch = self.records.steps_per_epoch
        return None if per_epoch is None else round(per_epoch * self.config.training.epochs)

    @property
    def last_step(self) -> int:
        """The last step that the run is known to have reached."""
        return max([self.step, *(int(r["step"]) for r in self.records.train + self.records.evaluations)])

    @property
    def epochs(self) -> float | None:
        """Epochs up to the checkpoint; nothing without records."""
        per_epoch = self.records.steps_per_epoch
        return None if per_epoch is None else self.step / per_epoch

    @property
    def validation(self) -> dict[str, Any]:
        """The part of the results that was read on validation images; empty without one."""
        results = self.results or {}
        found: dict[str, Any] = results if results.get("split") == "validation" else results.get("validation", {})
        return found

    def comparison(self, reading: Reading) -> Comparison | None:
        """A reading beside its controls; nothing where it was skipped or not made on validation images."""
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
        """The reading that the verdict rests on: the linear probe, or k-NN where that alone was asked for."""
        return self.comparison("linear_probe") or self.comparison("knn")

    @property
    def skipped(self) -> str | None:
        """Why an evaluation could not read classes, where it said so."""
        for reading in ("linear_probe", "knn"):
            reason = (self.results or {}).get(reading, {}).get("skipped")
            if reason:
                return str(reason)
        return None

    def level_scores(self, reading: Reading, who: str = "trained") -> dict[int, float]:
        """Accuracy of every level alone, on validation images."""
        entries = self.validation.get(reading, {}).get("levels") or []
        return {e["level"]: e[who] for e in entries if isinstance(e.get(who), (int, float))}

    def ranks(self, who: str = "trained") -> dict[int, float]:
        """Effective rank per level: of the evaluation, or else of the last online evaluation (trained only)."""
        entries = (self.results or {}).get("rank", {}).get("levels") or []
        found = {e["level"]: e[who] for e in entries if isinstance(e.get(who), (int, float))}
        if found or who != "trained":
            return found
        evaluations = self.seen.evaluations
        last = evaluations[-1] if evaluations else {}
        return {int(key.rpartition("_")[2]): last[key] for key in level_keys([last], "rank") if last[key] is not None}

    def loss_over_chance(self) -> dict[int, float]:
        """Per level the loss as a share of its chance level, over the last tenth of the records."""
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
        """Per level the highest chance level so far, and the one of the last tenth of the records."""
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
    """0.057 as "5.7 points above", -0.02 as "2.0 points below", and "level with" for what rounds to nothing."""
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
