"""A single score of a trained run, for code that chooses between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hjepa.errors import UserError
from hjepa.evaluation import evaluate


def validation_score(
    checkpoint: str | Path,
    *,
    reading: Literal["linear_probe", "knn"] = "linear_probe",
    level: int | Literal["all"] = "all",
    device: str = "auto",
) -> float:
    """Accuracy of a trained model on validation images, 0 to 1; higher is better. Test is not read.

    Args:
        checkpoint: as for `hjepa.evaluate`; in a run folder the results are saved as ``results_validation.json``.
        reading: how features are scored.
        level: one level, or all levels concatenated.
        device: where to encode images.

    Raises:
        UserError: no validation images, no labels, or no such level.
    """
    results = evaluate(
        checkpoint,
        split="validation",
        eval_type=reading,
        levels=None if level == "all" else [level],
        controls=(),
        device=device,
    )
    scores = results[reading]
    if "skipped" in scores:
        raise UserError(f"{checkpoint}: cannot be scored on validation images: {scores['skipped']}")
    return float(scores["trained"] if level == "all" else scores["levels"][0]["trained"])
