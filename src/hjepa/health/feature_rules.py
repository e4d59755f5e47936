"""Rules about the features of a run: each compares numbers with a threshold and may advise a change.

A rule is a function of the evidence and returns a finding, or None if there is nothing to report or its numbers are
missing. Rules about training are in `hjepa.health.training_rules`.
"""

from __future__ import annotations

from hjepa.health.evidence import Evidence, levels_text, listing, percent, points
from hjepa.health.finding import Finding
from hjepa.health.thresholds import HEALTHY_RANK

AT_CHANCE = 0.97
"""Loss over chance at or above which a level predicts nothing; below 1 because batches vary by a few per cent."""
WELL_BELOW_CHANCE = 0.9
SHRUNK_TARGETS = 0.1
"""Share of its highest value below which a level's chance level indicates that its targets have become alike. The
threshold is low, as targets always lose some variance when the moving average departs from its random
initialisation."""
DEAD_RANK = 2.0
"""Effective rank at or below which features have collapsed; at 1 all images have features in one direction."""
HALVED = 0.5
SAME_RANK = 0.1
"""Relative difference up to which two effective ranks count as equal."""
ALIKE = 0.95
"""CKA at or above which two levels hold the same information."""
POSITION = 0.8


# -- was anything learned? -------------------------------------------------------------------------------------------


def second_reading(e: Evidence) -> Finding | None:
    """Compare k-NN with the probe: classes may be linearly separable but poorly clustered."""
    main, knn = e.main, e.comparison("knn")
    if knn is None or main is None or main.reading == "knn":
        return None
    signs = knn.sign(knn.untrained), knn.sign(knn.pixels)
    text = (
        f"{knn.name} accuracy is {percent(knn.trained)}: {points(knn.over_untrained)} the untrained encoder and "
        f"{points(knn.over_pixels)} raw pixels{_within(knn.sign(knn.untrained), knn.sign(knn.pixels))}."
    )
    if min(signs) > 0:
        return Finding("good", text)
    if signs[1] < 0 and main.sign(main.untrained) > 0 and main.sign(main.pixels) > 0:
        return Finding(
            "warn",
            text + " The classes are linearly separable but poorly clustered.",
            "Use these features with a linear classifier; for retrieval by distance, train longer first.",
        )
    return Finding("warn" if min(signs) < 0 else "note", text)


def _within(untrained: int, pixels: int) -> str:
    names = [name for name, sign in (("the former", untrained), ("the latter", pixels)) if sign == 0]
    if not names:
        return ""
    return f" ({'both' if len(names) == 2 else names[0]} within the noise of the validation images)"


def loss_at_chance(e: Evidence) -> Finding | None:
    """A loss at its chance level is no better than always predicting the mean target."""
    ratios = e.loss_over_chance()
    stuck = [level for level, ratio in ratios.items() if ratio >= AT_CHANCE]
    if stuck:
        numbers = listing([percent(ratios[level]) for level in stuck])
        return Finding(
            "warn",
            f"The loss of {levels_text(stuck)} ends at {numbers} of its chance level: the predictions there are no better "
            "than the mean target.",
            "Train longer, raise `training.lr`, or lower `masking.mask_scale` so that more context is visible.",
        )
    if ratios and max(ratios.values()) < WELL_BELOW_CHANCE:
        numbers = listing([f"{ratio:.0%}" for ratio in ratios.values()])
        return Finding(
            "good",
            f"Hidden regions are predicted better than chance: the loss ends at {numbers} of its chance level"
            f"{_finest_first(list(ratios))}.",
        )
    return None


def targets_alike(e: Evidence) -> Finding | None:
    """If targets collapse, their variance, which is the chance level, goes to zero, and the loss with it."""
    course = {level: last / top for level, (top, last) in e.chance_course().items() if top > 0}
    shrunk = [level for level, share in course.items() if share < SHRUNK_TARGETS]
    if not shrunk or e.config.loss.type == "infonce":
        return None
    numbers = listing([f"{course[level]:.0%}" for level in shrunk])
    return Finding(
        "bad",
        f"The chance level of {levels_text(shrunk)} fell to {numbers} of its highest value: the targets have become nearly "
        "constant, so a low loss does not show learning.",
        "Raise `loss.variance_loss_weight` and `loss.covariance_loss_weight` (start with 0.04), or raise "
        "`model.ema.momentum` so that the target changes more slowly.",
    )


def collapsed(e: Evidence) -> Finding | None:
    """Effective rank near 1, or far below both the feature dimension and the untrained encoder."""
    ranks, before = e.ranks(), e.ranks("untrained")
    dead = [level for level, rank in ranks.items() if _is_dead(rank, before.get(level), e.width)]
    if dead:
        numbers = listing([f"{ranks[level]:.1f}" for level in dead])
        return Finding(
            "bad",
            f"Collapse: the effective rank of {levels_text(dead)} is {numbers} of {e.width}.",
            "Raise `loss.variance_loss_weight` and `loss.covariance_loss_weight`, lower `training.lr`, or raise "
            "`model.ema.momentum`.",
        )
    both = [level for level in ranks if level in before]
    fewer = [level for level in both if ranks[level] < (1 - SAME_RANK) * before[level]]
    if fewer:
        numbers = listing([f"{before[level]:.1f} to {ranks[level]:.1f}" for level in fewer])
        return Finding(
            "warn",
            f"The effective rank of {levels_text(fewer)} fell in training, from {numbers} of {e.width}: the features use "
            "fewer directions than those of the untrained encoder.",
            "Check the rank in a longer run. If it continues to fall, raise `loss.variance_loss_weight` and "
            "`loss.covariance_loss_weight`.",
        )
    if both:
        more = all(ranks[level] > (1 + SAME_RANK) * before[level] for level in both)
        numbers = listing([f"{ranks[level]:.1f}" for level in both])
        return Finding(
            "good" if more else "note",
            f"No collapse: effective rank {numbers} of {e.width}{_finest_first(both)}, "
            f"{'above' if more else 'not below'} the untrained encoder.",
        )
    if ranks and min(ranks.values()) < HEALTHY_RANK * e.width:
        numbers = listing([f"{rank:.1f}" for rank in ranks.values()])
        return Finding(
            "warn",
            f"The effective rank is low: {numbers} of {e.width}{_finest_first(list(ranks))}. Untrained encoders often start "
            "there; `hjepa evaluate` measures the rank of this run's untrained encoder.",
        )
    return None


def _finest_first(levels: list[int]) -> str:
    return ", finest level first" if len(levels) > 1 else ""


def _is_dead(rank: float, before: float | None, width: int) -> bool:
    far_down = rank < HEALTHY_RANK * width and before is not None and rank < HALVED * before
    return rank <= min(DEAD_RANK, width / 4) or far_down


def position_only(e: Evidence) -> Finding | None:
    """Cell features that encode little but their position solve the task without using the image."""
    shares = {level: share for level, share in enumerate(e.position) if share is not None}
    bound = [level for level, share in shares.items() if share > POSITION]
    if not bound:
        return None
    numbers = listing([f"{shares[level]:.0%}" for level in bound])
    return Finding(
        "warn",
        f"Position alone explains {numbers} of the variance of cell features at {levels_text(bound)}: they mostly encode "
        "where a cell is, not what it shows.",
        "Longer training usually lowers this share. If it does not, try `model.position=rope`, which does not add position "
        "to the features.",
    )


# -- does the hierarchy help? ----------------------------------------------------------------------------------------


def best_level(e: Evidence) -> Finding | None:
    """All levels together should be better than the best single level; otherwise one level is enough."""
    main = e.main
    if main is None:
        return None
    scores = e.level_scores(main.reading)
    if len(scores) < 2:
        return None
    best = max(scores, key=lambda level: scores[level])
    gain = main.trained - scores[best]
    noise = main.noise(scores[best])
    relation = "within the noise" if abs(gain) <= noise else "more than the noise"
    return Finding(
        "good" if gain > noise else "note",
        f"The best single level is level {best} with {percent(scores[best])} ({main.name}); all levels together are "
        f"{points(gain)} it, {relation}.",
    )


def levels_alike(e: Evidence) -> Finding | None:
    """Neighbouring levels with nearly the same information add little to each other."""
    cka = (e.results or {}).get("cka") or []
    pairs = [
        (level, row[level + 1])
        for level, row in enumerate(cka[:-1])
        if row[level + 1] is not None and row[level + 1] >= ALIKE
    ]
    if not pairs:
        return None
    text = listing([f"{level} and {level + 1} (CKA {value:.2f})" for level, value in pairs])
    return Finding(
        "note",
        f"Neighbouring levels hold nearly the same information: {text}.",
        "Set the levels further apart with `model.levels`, or use fewer of them to save compute (`model.num_hierarchies`).",
    )
