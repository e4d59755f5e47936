"""Loading studies: grids, names, and one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hjepa.errors import UserError
from hjepa.research import load_study, study_names
from hjepa.research.study import slug

LEVELS: dict[str, Any] = {
    "title": "Levels",
    "cells": {"one": {"model.num_hierarchies": 1}, "two": {"model.num_hierarchies": 2}},
}


def test_cells_are_crossed_with_the_grid_in_order() -> None:
    _, study = load_study(LEVELS | {"grid": {"training.lr": [0.001, 0.002], "model.depth": [2]}})
    cells = study.all_cells()
    assert list(cells) == [
        "one, lr=0.001, depth=2",
        "one, lr=0.002, depth=2",
        "two, lr=0.001, depth=2",
        "two, lr=0.002, depth=2",
    ]
    assert cells["two, lr=0.002, depth=2"] == {"model.num_hierarchies": 2, "training.lr": 0.002, "model.depth": 2}
    assert study.reference_cell == "one, lr=0.001, depth=2"
    assert len({slug(name) for name in cells}) == 4


def test_a_grid_alone_needs_no_cells() -> None:
    _, study = load_study({"title": "t", "grid": {"training.lr": [0.001, 0.002]}})
    assert list(study.all_cells()) == ["lr=0.001", "lr=0.002"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cels": {}}, ["cels", "did you mean cells"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": [1, 1]}, ["seeds", "duplicate"]),
        ({"reference": "tow"}, ["reference", "'two'"]),
        ({"budget": "hours"}, ["budget", "'images' or 'flop'"]),
        ({"cells": {"one": {"seed": 3}}}, ["seed", "seeds"]),
        ({"overrides": {"seed": 3}}, ["overrides", "seeds"]),
        ({"seeds": [0, -1]}, ["seeds", "negative"]),
        ({"grid": {"training.lr": []}}, ["grid.training.lr", "no values"]),
        ({"grid": {"training.lr": [0.001, 0.001]}}, ["grid", "duplicate values"]),
        ({"cells": {"one": {}, "One": {"model.depth": 2}}}, ["'one'", "'One'", "rename"]),
        ({"title": ""}, ["title"]),
    ],
)
def test_every_error_is_one_line(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_study(LEVELS | change)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_files_that_are_not_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean levels"):
        load_study("levls")
    with pytest.raises(UserError, match="no such study"):
        load_study(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("title: [")
    with pytest.raises(UserError, match=r"broken\.yaml.*not valid YAML"):
        load_study(broken)
    twice = tmp_path / "twice.yaml"
    twice.write_text("title: t\ncells:\n  one: {training.lr: 0.001}\n  one: {training.lr: 0.002}\n")
    with pytest.raises(UserError, match=r"twice\.yaml, line 4: .*duplicate key 'one'"):
        load_study(twice)


def test_the_shipped_studies_cover_the_documented_questions() -> None:
    for name in study_names():
        found, study = load_study(name)
        assert found == name
        assert study.question
        assert len(study.all_cells()) > 1
        assert len(study.seeds) >= 3
    assert {"levels", "forms", "masks", "mask_sets", "objective", "ema", "predictor", "optimiser", "encoder"} <= set(
        study_names()
    )
