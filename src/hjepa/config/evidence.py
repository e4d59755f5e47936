"""Measured results for options that the presets leave off, with references."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """A result for one value of a key.

    Attributes:
        key: dotted key.
        option: the value, or a description of it.
        found: the result in a few words.
        rows: rows of docs/results/recipe.md that show it.
    """

    key: str
    option: str
    found: str
    rows: tuple[str, ...]


EVIDENCE = (
    Evidence("model.levels[].stride", "0", "no gain from a whole-image level", ("S4", "C16")),
    Evidence("model.position", "rope", "worse and slower on the built-in set", ("S6",)),
    Evidence("model.hierarchy", "pooled, both", "worse than levels at depths", ("C36", "C38")),
    Evidence(
        "model.center_targets",
        "true",
        "better probe with `smoothl1` on photographs, worse on the built-in set, no difference with `infonce`",
        ("S5", "C5", "C15"),
    ),
    Evidence("model.predictor.sharing", "separate", "no better, at a higher cost", ("C29",)),
    Evidence("model.predictor.predict_visible", "true", "better in short runs, worse at full length", ("C24", "F2")),
    Evidence("model.predictor.coarse_to_fine", "true", "no better, at a higher cost", ("C39",)),
    Evidence("model.ema.momentum_end", "equal to `momentum`", "worse than a rising momentum", ("C46",)),
    Evidence(
        "model.ema.momentum_end", "below 1", "better k-NN with `infonce`; used by the presets for photographs", ("C10",)
    ),
    Evidence("masking.strategy", "hierarchical", "no better, at a much higher cost", ("C37",)),
    Evidence("masking.strategy", "random", "worse", ("C40",)),
    Evidence(
        "masking.sets_per_image",
        "2",
        "not worth its cost in short runs; measured when a cell hidden in both sets was still its own negative",
        ("C12", "C41"),
    ),
    Evidence("loss.type", "infonce", "best on photographs, far worse on the built-in set", ("C6", "L3", "S12")),
    Evidence("loss.type", "mse, cosine", "worse than `infonce` on photographs", ("C44", "C45")),
    Evidence("loss.hierarchy_weights", "other than 1", "no difference", ("C42", "C43")),
    Evidence("loss.hierarchy_weighting", "learned", "worse", ("C48",)),
    Evidence(
        "loss.sliced_gaussian_weight", "5", "too weak to prevent collapse; larger weights are unmeasured", ("S16",)
    ),
    Evidence(
        "loss.regularised_levels",
        "all",
        "better k-NN on the built-in set, no gain on photographs",
        ("S9", "C7", "C28", "L12"),
    ),
)
"""In the order of the reference."""
