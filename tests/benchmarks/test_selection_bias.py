"""The estimate of the bias from selection by test accuracy: its properties, and the published values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import selection_bias
from hjepa.zoo.card import SELECTION

KEPT = selection_bias.RESULTS / "selection_bias.json"


def test_the_bias_grows_with_the_number_compared_and_stays_below_the_bound() -> None:
    best = [selection_bias.expected_best(n, 4000) for n in (1, 2, 10, 60)]
    assert best == sorted(best)
    assert best[0] == pytest.approx(0, abs=0.06)
    assert best[1] == pytest.approx(1 / math.sqrt(math.pi), abs=0.05)
    for n, value in zip((2, 10, 60), best[1:], strict=True):
        assert value < selection_bias.bound(n)


def test_the_deviation_between_seeds_is_pooled_over_cells_with_different_means() -> None:
    draws = np.random.default_rng(0).normal(0, 0.01, (40, 5))
    cells = [
        {"runs": [{"linear_probe/all": 0.4 + i / 100 + value} for value in row]} for i, row in enumerate(draws.tolist())
    ]
    deviation, freedom = selection_bias.pooled_deviation([{"cells": cells[:20]}, {"cells": cells[20:]}, {"other": 1}])
    assert freedom == 160
    assert deviation == pytest.approx(0.01, rel=0.15)
    with pytest.raises(ValueError, match="no study"):
        selection_bias.pooled_deviation([{"cells": [{"runs": [{"linear_probe/all": 0.5}]}]}])


def test_the_published_estimate_is_reproduced_from_the_published_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selection_bias.main(["--json", str(tmp_path / "again.json")])
    made, kept = (json.loads(file.read_text()) for file in (tmp_path / "again.json", KEPT))
    for key in ("rows", "seed_deviation", "degrees_of_freedom", "cases", "chosen", "chosen_other_seed"):
        assert made[key] == kept[key], key
    assert "with another seed" in capsys.readouterr().out


def test_the_model_card_states_the_published_estimate() -> None:
    kept = json.loads(KEPT.read_text())
    short, anew = (
        kept["cases"][name]
        for name in (
            "best short run on CIFAR-10",
            "new run of the recipe chosen from all runs on CIFAR-10",
        )
    )
    rows = kept["rows"]
    for text in (
        f"{rows['C'] + rows['L']} short and {rows['F']} full-length experiments on CIFAR-10",
        f"{rows['S']} short ones on the built-in data set",
        f"differ by {100 * kept['seed_deviation']:.1f} points",
        f"would be {anew['expected_points']:.1f} points above its true value on average (bound: {anew['bound_points']:.1f})",
        f"best of {short['compared']} short runs {short['expected_points']:.1f} points (bound: {short['bound_points']:.1f})",
    ):
        assert text in SELECTION
