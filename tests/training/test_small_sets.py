"""Runs on one to four images: they train and save, and warn about evaluations that need more images."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import TINY
from tests.data.image_files import encode, noise

import hjepa
from hjepa.runs.checkpoint import read_checkpoint

SETS = {
    "one": ["a.png"],
    "flat": ["a.png", "b.png"],
    "two_by_two": ["a/0.png", "a/1.png", "b/0.png", "b/1.png"],
    "three": ["a/0.png", "b/0.png", "c/0.png"],
}


@pytest.mark.parametrize("name", SETS)
def test_runs_on_very_small_data_sets_train_and_save(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for seed, file in enumerate(SETS[name]):
        path = tmp_path / "set" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(seed)))
    keys = {
        "data.dataset": "folder",
        "data.data_path": str(tmp_path / "set"),
        "data.subset": None,
        "training.epochs": 1,
        "evaluation.final": True,
    }
    result = hjepa.train(TINY, output_dir=tmp_path / "run", overrides=keys, console=False)
    assert result.completed
    assert read_checkpoint(result.checkpoint)["step"] == 1
    log = (tmp_path / "run" / "training.log").read_text()
    assert "skipped" in log
    assert "Traceback" not in log
    if name == "one":
        assert result.results == {}
        assert "no images for the test split" in log
    else:
        assert result.results["train_images"] >= 1
        assert (tmp_path / "run" / "report.html").is_file()
