"""Name the state of a run: healthy, collapsed, diverging, stuck and so on, with the figures that say so.

The figures and limits are those of `hjepa.health`; here they are read together. The states are tried in the order of
`_STATES`, causes before their consequences: a run that diverges has collapsed features too, and a collapsed one few
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hjepa.analysis.convergence import convergence
from hjepa.analysis.history import History
from hjepa.analysis.stability import stability
from hjepa.health.evidence import listing
from hjepa.health.feature_rules import AT_CHANCE, DEAD_RANK, POSITION, SHRUNK_TARGETS, WELL_BELOW_CHANCE
from hjepa.health.light import Light
from hjepa.runs.records import level_keys, series

State = Literal[
    "healthy",
    "diverging",
    "collapsed",
    "late_collapse",
    "position_shortcut",
    "dimension_collapsed",
    "stuck",
    "unclear",
    "no_records",
]

HEADLINES: dict[State, str] = {
    "healthy": "Healthy",
    "diverging": "Diverging",
    "collapsed": "Collapsed",
    "late_collapse": "Late collapse",
    "position_shortcut": "Position shortcut",
    "dimension_collapsed": "Dimension collapse",
    "stuck": "Stuck",
    "unclear": "Too early to tell",
    "no_records": "No records",
}
MEANINGS: dict[State, str] = {
    "healthy": "the features differ between images, and the predictions use the image",
    "diverging": "losses or gradients grow without bound; the learning rate is too high for this model",
    "collapsed": "nearly the same features for all images, so that they are easy to predict and say nothing",
    "late_collapse": "it learned, then lost it again while training went on",
    "position_shortcut": "the features encode where a cell is rather than what it shows",
    "dimension_collapsed": "images differ, but in fewer directions than before training or than the width offers",
    "stuck": "the weights hardly move; the learning rate is too low",
    "unclear": "there is not enough to tell yet",
    "no_records": "nothing was recorded",
}

# A level whose loss is so many times its highest chance level predicts far worse than the mean target.
_FAR_ABOVE_CHANCE = 3.0
# Loss at the end over the loss at the beginning.
_GROWN = 2.0
# A loss that explodes: over its first record, and over chance levels, which are about 0.3 or more before training.
_EXPLODED, _EXPLODED_OVER_CHANCE, _USUAL_CHANCE = 5.0, 10.0, 0.3
# Updates skipped in a row after which training gives up, and the share of them that is no accident.
_SKIPPED_SHARE = 0.02
# Relative change below which a loss, or a measure of the features, has not moved.
_STILL, _STILL_FEATURES = 0.03, 0.02
# Shares of the untrained encoder's measures.
_NO_GAIN, _LIDAR_LOST = 1.1, 0.8
_SHARE_OF_BEST = 0.5
# Share of the width below which a rank that has not grown in training is low.
_LOW_RANK = 0.15
# Figures that are red when features or targets are the same for all images.
_SAME = ("spread", "cosine", "shrunk")
# Share of the run before which only what is certainly wrong is named.
_EARLY = 0.1


@dataclass(frozen=True)
class Diagnosis:
    """The state of a run.

    Attributes:
        state: its name in JSON.
        evidence: the figures, one sentence each, without a full stop.
    """

    state: State
    evidence: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The state in a few words."""
        return HEADLINES[self.state]

    @property
    def meaning(self) -> str:
        """What it means."""
        return MEANINGS[self.state]


def diagnose(history: History) -> Diagnosis:
    """Name the state of a run from its records."""
    if not history.records.train and not history.records.evaluations:
        return Diagnosis("no_records", ("`metrics.jsonl` is missing or empty",))
    for state, find in _STATES:
        evidence = find(history)
        if evidence:
            return Diagnosis(state, tuple(evidence))
    return Diagnosis(*_healthy_or_unclear(history))


# -- what is wrong ---------------------------------------------------------------------------------------------------


def _diverging(history: History) -> list[str]:
    found: list[str] = []
    measured = stability(history)
    step = max(1, history.step)
    if measured is not None:
        scaled = history.config.training.use_amp and history.config.training.amp_dtype == "fp16"
        skipped = measured["skipped"]
        if skipped and (skipped > _SKIPPED_SHARE * step) and not scaled:
            found.append(f"{skipped} of {step} updates were skipped, because the gradient was not finite")
        if measured["not_finite"]:
            found.append("a loss or a feature is not finite")
    _, losses = series(history.records.train, "loss")
    if len(losses) >= 4 and losses[0] > 0:
        # The beginning is one record: a run that diverges has left it by the second.
        start, end = losses[0], _mean(losses[-max(1, len(losses) // 10) :])
        # A total may jump by a term of its own while every level is predicted well; that term is shown by `stability.terms`.
        ratios = history.evidence().loss_over_chance()
        predicted = bool(ratios) and max(ratios.values()) < WELL_BELOW_CHANCE
        if end > _GROWN * start and not predicted:
            found.append(f"the loss grew from {start:.3g} to {end:.3g}")
    for level, key in enumerate(level_keys(history.records.train, "loss")):
        _, values = series(history.records.train, key)
        _, chances = series(history.records.train, f"chance/level_{level}")
        if values and chances and max(chances) > 0:
            end = _mean(values[-max(1, len(values) // 10) :])
            if end > _FAR_ABOVE_CHANCE * max(chances):
                ratio = end / max(chances)
                found.append(f"the loss of level {level} is {ratio:.3g} times its highest chance level")
    if not found:
        found += _exploded(history)
    gradient = None if measured is None else measured["gradient"]
    if found and gradient and gradient["largest"] > 100 * max(gradient["median"], 1e-12):
        found.append(
            f"the gradient norm reached {gradient['largest']:.3g} at step {gradient['step']}, "
            f"{gradient['largest'] / gradient['median']:.3g} times its median"
        )
    return found


def _exploded(history: History) -> list[str]:
    """A loss that exploded, and features that are lost since: as the learning rate falls, the loss comes down again."""
    lost = _same_for_all(history)
    if not lost:
        return []
    train = history.records.train
    steps, losses = series(train, "loss")
    if losses and losses[0] > 0 and max(losses) > _EXPLODED * losses[0]:
        at = int(steps[losses.index(max(losses))])
        return [f"the loss rose from {losses[0]:.3g} to {max(losses):.3g} at step {at}", *lost[:1]]
    for level, key in enumerate(level_keys(train, "loss")):
        steps, values = series(train, key)
        _, chances = series(train, f"chance/level_{level}")
        if values and chances and max(values) > _EXPLODED_OVER_CHANCE * max(_USUAL_CHANCE, *chances):
            at = int(steps[values.index(max(values))])
            return [f"the loss of level {level} reached {max(values):.3g} at step {at}", *lost[:1]]
    return []


def _collapsed(history: History) -> list[str]:
    found = _same_for_all(history)
    shrunk = _shrunk(history)
    bound = [share for share in history.position() if share is not None and share > POSITION]
    if bound and not shrunk:
        return []  # features that differ by position alone are the same for all images too
    ranks = _ranks(history)
    dead = [level for level, rank in ranks.items() if rank <= min(DEAD_RANK, history.geometry.embed_dim / 4)]
    if dead:
        numbers = listing([f"{ranks[level]:.2f}" for level in dead])
        found.append(f"effective rank of {_levels(dead)}: {numbers} of {history.geometry.embed_dim}")
    if shrunk and (found or not history.measures()):
        found += shrunk
    if not found:
        found = _never_recovered(history)
    return found if not _late(history) else []


def _never_recovered(history: History) -> list[str]:
    """A collapse early in the run that left few dimensions, though the features of images differ again."""
    few = _few_dimensions(history)
    if not few:
        return []
    for step, signs in history.signs:
        red = [sign for sign in signs if sign.light is Light.RED and sign.figure in _SAME]
        if red:
            return [f"at step {step}, {red[0].text}", *few]
    return []


def _same_for_all(history: History) -> list[str]:
    """Levels at which the features hardly differ between images, beside the untrained encoder's."""
    limits = history.config.health
    found: list[str] = []
    for level, measure in enumerate(history.measures()):
        where = f"level {level}"
        if _below(measure["spread"], limits.spread[1]):
            found.append(f"spread between images at {where}: {_percent(measure['spread'])} of the untrained encoder's")
        if _below(measure["distance"], limits.cosine[1]):
            found.append(
                f"1 - cosine between images at {where}: {_percent(measure['distance'])} of the untrained encoder's"
            )
    return found


def _late_collapse(history: History) -> list[str]:
    return _late(history)


def _late(history: History) -> list[str]:
    """Figures that were good, and are far below their own best at the end."""
    found: list[str] = []
    knn = convergence(history)["knn"]
    fell = False
    if knn is not None and knn["evaluations"] >= 3 and knn["best"] > 0:
        fall = knn["below_best"] / knn["best"]
        gained = knn["best"] - knn["first"] > knn["noise"]
        if knn["below_best"] > knn["noise"] and fall > history.config.health.knn[0] and gained:
            fell = True
            found.append(
                f"online k-NN fell from {knn['best']:.1%} at step {knn['best_step']} to {knn['last']:.1%}, beyond its noise of "
                f"{knn['noise']:.1%}"
            )
    before = history.records.untrained
    for key in level_keys(history.records.evaluations, "rank") if before is not None else []:
        steps, values = series(history.records.evaluations, key)
        start = float(before.get(key) or math.inf) if before is not None else math.inf
        best = max(values)
        # Only a rank that training had raised was learned.
        if len(values) >= 3 and best > 1.5 * start and values[-1] < _SHARE_OF_BEST * best:
            level = key.rpartition("_")[2]
            at = int(steps[values.index(best)])
            found.append(f"effective rank at level {level} fell from {best:.1f} at step {at} to {values[-1]:.1f}")
            fell = True
    return found if fell else []


def _position(history: History) -> list[str]:
    limits = history.config.health
    found = []
    measures = history.measures()
    for level, share in enumerate(history.position()):
        content = measures[level]["content"] if level < len(measures) else None
        if share is not None and (share > POSITION or _below(content, limits.position[0])):
            beside = "" if content is None else f"; what it leaves is {_percent(content)} of the untrained encoder's"
            found.append(f"position explains {share:.0%} of the variance of cell features at level {level}{beside}")
    return found


def _few_dimensions(history: History) -> list[str]:
    """Levels whose effective rank or LiDAR rank is in the red."""
    limits = history.config.health
    found = []
    ranks, width = _ranks(history), history.geometry.embed_dim
    for level, measure in enumerate(history.measures()):
        rank, lidar = measure["rank"], measure["lidar"]
        if _below(rank, limits.rank[1]):
            found.append(
                f"effective rank at level {level}: {ranks.get(level, math.nan):.1f} of {width}, {_percent(rank)} of the untrained "
                "encoder's"
            )
        elif _below(lidar, limits.lidar[1]):
            found.append(f"LiDAR rank at level {level}: {_percent(lidar)} of the untrained encoder's")
    return found


def _dimension(history: History) -> list[str]:
    found = _few_dimensions(history)
    if found:
        return found
    still = []
    ranks, width = _ranks(history), history.geometry.embed_dim
    for level, measure in enumerate(history.measures()):
        rank, lidar = measure["rank"], measure["lidar"]
        if (
            rank is not None
            and rank < _NO_GAIN
            and _below(lidar, _LIDAR_LOST)
            and ranks.get(level, math.inf) < _LOW_RANK * width
        ):
            still.append(
                f"effective rank at level {level} is {ranks[level]:.1f} of {width}, {_percent(rank)} of the untrained encoder's, "
                f"and the LiDAR rank {_percent(lidar)}: training has added no direction"
            )
    ratios = history.evidence().loss_over_chance()
    learned = bool(ratios) and max(ratios.values()) < WELL_BELOW_CHANCE
    done = history.epoch >= 0.5 * float(history.config.training.epochs)
    return still if learned and done else []


def _stuck(history: History) -> list[str]:
    _, losses = series(history.records.train, "loss")
    if len(losses) < 4:
        return []
    # After the first records, which a random predictor's output alone may move.
    tenth = max(1, len(losses) // 10)
    start, end = _mean(losses[:tenth]), _mean(losses[-tenth:])
    if not start or abs(end - start) > _STILL * abs(start):
        return []
    found = [f"the loss went from {start:.4g} to {end:.4g} over {history.step} steps"]
    moved = [
        value
        for measure in history.measures()
        for name in ("rank", "spread", "distance")
        if (value := measure[name]) is not None
    ]
    if moved:
        most = max(abs(value - 1) for value in moved)
        if most > _STILL_FEATURES:
            return []
        found.append(f"no measure of the features differs from the untrained encoder's by more than {most:.1%}")
    ratios = history.evidence().loss_over_chance()
    if ratios:
        if min(ratios.values()) < AT_CHANCE:
            return []
        found.append(f"the loss is at {listing([f'{r:.0%}' for r in ratios.values()])} of its chance level")
    found.append(f"`training.lr={history.config.training.lr:g}`")
    return found if moved or ratios else []


_STATES: tuple[tuple[State, Callable[[History], list[str]]], ...] = (
    ("diverging", _diverging),
    ("collapsed", _collapsed),
    ("late_collapse", _late_collapse),
    ("position_shortcut", _position),
    ("stuck", _stuck),
    ("dimension_collapsed", _dimension),
)


# -- nothing is wrong ------------------------------------------------------------------------------------------------


def _healthy_or_unclear(history: History) -> tuple[State, tuple[str, ...]]:
    measures, ratios = history.measures(), history.evidence().loss_over_chance()
    evidence = []
    if ratios:
        evidence.append(f"the loss is at {listing([f'{r:.0%}' for r in ratios.values()])} of its chance level")
    ranks = [measure["rank"] for measure in measures if measure["rank"] is not None]
    if ranks:
        evidence.append(
            f"the effective rank is {listing([f'{rank:.1f}' for rank in ranks])} times the untrained encoder's"
        )
    knn = convergence(history)["knn"]
    if knn is not None:
        evidence.append(f"online k-NN is {knn['last']:.1%}, its best {knn['best']:.1%}")
    progress = history.epoch / float(history.config.training.epochs)
    if progress < _EARLY or not (ratios or measures):
        return "unclear", (*evidence, f"{progress:.0%} of the run is done")
    if ratios and min(ratios.values()) >= AT_CHANCE:
        return "unclear", (*evidence, "no level is predicted better than its mean target yet")
    return "healthy", tuple(evidence)


# -- figures ---------------------------------------------------------------------------------------------------------


def _shrunk(history: History) -> list[str]:
    """Levels whose targets have become alike; none with InfoNCE, whose chance level does not depend on them."""
    if history.config.loss.type == "infonce":
        return []
    course = history.evidence().chance_course()
    return [
        f"chance level of level {level}: {last / top:.1%} of its highest value, the targets are nearly constant"
        for level, (top, last) in course.items()
        if top > 0 and last / top < SHRUNK_TARGETS
    ]


def _ranks(history: History) -> dict[int, float]:
    """Effective rank by level at the last online evaluation."""
    evaluations = history.records.evaluations
    last = evaluations[-1] if evaluations else {}
    return {
        int(key.rpartition("_")[2]): float(last[key]) for key in level_keys([last], "rank") if last[key] is not None
    }


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}" if value >= 0.095 else f"{value:.1%}"


def _levels(levels: list[int]) -> str:
    return f"level{'s' if len(levels) > 1 else ''} {listing([str(level) for level in levels])}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
