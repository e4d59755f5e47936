"""Judge a run: a verdict in one sentence, and the findings of all rules, most urgent first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hjepa.health.evidence import Comparison, Evidence, listing, percent, points
from hjepa.health.feature_rules import (
    AT_CHANCE,
    best_level,
    collapsed,
    levels_alike,
    loss_at_chance,
    position_only,
    second_reading,
    targets_alike,
)
from hjepa.health.finding import Finding, Kind, train_longer
from hjepa.health.training_rules import (
    knn_trend,
    momentum_freezes,
    not_evaluated,
    one_seed,
    results_of_another_step,
    short_run,
    skipped_updates,
    stopped_early,
    waiting_for_data,
)
from hjepa.runs.records import series

RULES: tuple[Callable[[Evidence], Finding | None], ...] = (
    results_of_another_step,
    collapsed,
    targets_alike,
    loss_at_chance,
    second_reading,
    best_level,
    knn_trend,
    position_only,
    waiting_for_data,
    skipped_updates,
    stopped_early,
    short_run,
    not_evaluated,
    levels_alike,
    momentum_freezes,
    one_seed,
)

_ORDER: tuple[Kind, ...] = ("bad", "warn", "good", "note")


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run.

    Attributes:
        kind: ``bad``, ``warn``, ``good`` or ``note`` (unknown).
        headline: the verdict in a few words.
        sentence: the numbers that support it, in one sentence.
        findings: findings of the rules, most urgent first.
        advice: advice that follows from the headline; None if there is none.
    """

    kind: Kind
    headline: str
    sentence: str
    findings: tuple[Finding, ...]
    advice: str | None = None

    @property
    def recommendations(self) -> list[str]:
        """Advice for the next run, most urgent first, without duplicates."""
        given = [self.advice, *(f.advice for f in self.findings)]
        return list(dict.fromkeys(text for text in given if text is not None))


def judge(evidence: Evidence) -> Verdict:
    """Judge a run by its numbers alone."""
    found = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    findings = tuple(sorted(found, key=lambda f: _ORDER.index(f.kind)))
    main = evidence.main
    kind, headline, sentence = _compared(evidence, main) if main is not None else _uncompared(evidence)
    state = collapsed(evidence)
    if state is not None and state.kind == "bad":
        kind, headline = "bad", "Collapsed"
    return Verdict(kind, headline, sentence, findings, None if main is None else _advice(evidence, main))


def _compared(evidence: Evidence, main: Comparison) -> tuple[Kind, str, str]:
    untrained, pixels = main.sign(main.untrained), main.sign(main.pixels)
    numbers = (
        f"{_when(evidence)}, {main.name if main.reading == 'knn' else 'a linear probe'} on the trained encoder classifies "
        f"{percent(main.trained)} of {main.images:,} validation images correctly: "
        f"{points(main.over_untrained)} the untrained encoder and {points(main.over_pixels)} raw pixels"
    )
    chance = (evidence.results or {}).get("chance")
    tail = f" (chance: {percent(chance)})" if isinstance(chance, float) else ""
    noise = _noise(untrained, pixels)
    kind: Kind
    if untrained > 0 and pixels > 0:
        kind, headline = "good", "Better than both controls"
    elif untrained > 0:
        relation = "below" if pixels < 0 else "no better than"
        kind, headline = "warn", f"Better than untrained, {relation} raw pixels"
    elif untrained == 0:
        kind, headline = "warn", "No clear gain over the untrained encoder"
    else:
        kind, headline = "bad", "Worse than the untrained encoder"
    return kind, headline, f"{numbers}{tail}{noise}."


def _advice(evidence: Evidence, main: Comparison) -> str | None:
    untrained, pixels = main.sign(main.untrained), main.sign(main.pixels)
    if untrained > 0:
        return None if pixels > 0 else train_longer(evidence)
    return (
        f"{train_longer(evidence)} If the loss stays at its chance level, raise `training.lr`; if the effective rank falls, "
        "raise `loss.variance_loss_weight` and `loss.covariance_loss_weight`."
    )


def _noise(untrained: int, pixels: int) -> str:
    """Name the differences that are within two standard errors."""
    names = {("untrained", 0): "the difference to the untrained encoder", ("pixels", 0): "the difference to raw pixels"}
    inside = [names[key] for key in (("untrained", untrained), ("pixels", pixels)) if key in names]
    if not inside:
        return ""
    verb = "is" if len(inside) == 1 else "are"
    return f"; {listing(inside)} {verb} within the noise for this number of images"


def _uncompared(evidence: Evidence) -> tuple[Kind, str, str]:
    """The verdict without accuracies, from loss and effective rank."""
    parts = []
    ratios = evidence.loss_over_chance()
    if ratios:
        parts.append(f"the loss is at {listing([f'{r:.0%}' for r in ratios.values()])} of its chance level")
    ranks = evidence.ranks()
    if ranks:
        parts.append(f"the effective rank is {listing([f'{r:.1f}' for r in ranks.values()])} of {evidence.width}")
    knn = _online(evidence)
    if knn is not None:
        parts.append(f"online k-NN accuracy on a split of train is {percent(knn)}")
    skipped = evidence.skipped or ""
    unlabelled = skipped.startswith("no labels")
    unread = evidence.results is not None and not skipped
    why = (
        "because there are no labels"
        if unlabelled
        else f"because there was no task ({skipped})"
        if skipped
        else "because there are no results for validation images"
        if unread
        else "because it was not evaluated"
    )
    if not parts:
        return (
            "note",
            "Not evaluated",
            f"{_when(evidence)}, nothing is known about this model, {why} and there are no training records.",
        )
    levels = " (finest level first)" if len(ratios) > 1 or len(ranks) > 1 else ""
    sentence = f"{_when(evidence)}, {listing(parts)}{levels}; the model is not compared with controls {why}."
    if ratios and min(ratios.values()) >= AT_CHANCE:
        return "warn", "Nothing predicted yet", sentence
    return (
        "note",
        ("No labels to judge by" if unlabelled else "No task to judge by")
        if skipped
        else ("Not evaluated on validation images" if unread else "Not evaluated yet"),
        sentence,
    )


def _online(evidence: Evidence) -> float | None:
    _, values = series(evidence.seen.evaluations, "knn")
    return values[-1] if values else None


def _when(evidence: Evidence) -> str:
    steps = f"After {evidence.step:,} step{'' if evidence.step == 1 else 's'}"
    if evidence.epochs is None:
        return steps
    epochs = f"{evidence.epochs:.2f}" if evidence.epochs < 1 else f"{evidence.epochs:.1f}".removesuffix(".0")
    return f"{steps} ({epochs} epoch{'' if epochs == '1' else 's'})"
