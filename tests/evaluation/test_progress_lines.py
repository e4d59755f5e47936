"""After training, progress lines report what the evaluation and the report are doing; `console=False` prints none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.evaluation.conftest import TINY

import hjepa
from hjepa.config import load_config
from hjepa.data import Splits
from hjepa.evaluation.features import View, encode
from hjepa.evaluation.scores import Representation, Task, knn_scores, probe_scores
from hjepa.runtime.work_progress import WorkProgress

STAGES = (
    "evaluation: encoding 80 training",
    "evaluation: linear probe",
    "evaluation: k-NN",
    "figures: encoding held-out images",
    "figures: drawn",
)
FINISHED = {"evaluation.final": True, "training.max_steps": 2, "training.epochs": 0.2}


@pytest.mark.parametrize("console", [True, False])
def test_every_slow_stage_after_training_prints_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: bool
) -> None:
    result = hjepa.train(TINY, output_dir=tmp_path / "run", overrides=FINISHED, console=console)
    assert result.results
    printed = capsys.readouterr().out
    assert [stage in printed for stage in STAGES] == [console] * len(STAGES)
    # The lines are always in the run's log.
    written = (tmp_path / "run" / "training.log").read_text(encoding="utf-8")
    assert all(stage in written for stage in STAGES)
    assert console or not printed


def test_every_image_that_is_encoded_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(TINY)
    train = Splits(config.data, config.seed).train
    view = View((16, 16), (0.5,) * 3, (0.5,) * 3, torch.device("cpu"), batch_size=16)
    with caplog.at_level("INFO", logger="hjepa"), WorkProgress("encoded", 40, "images", every=0) as progress:
        encode(train, torch.arange(40), [lambda images: {"pixels": images.flatten(1)}], view, progress)
    assert caplog.messages == ["encoded: 16 of 40 images", "encoded: 32 of 40 images", "encoded: 40 of 40 images"]


def test_every_set_of_features_that_is_read_is_counted_by_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hjepa.runtime.work_progress.SECONDS_BETWEEN_LINES", 0.0)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3

    def levels(count: int) -> list[torch.Tensor]:
        return [torch.randn(24, 4, generator=draw) for _ in range(count)]

    kinds = [Representation(name, levels(n), {"test": levels(n)}) for name, n in (("trained", 2), ("pixels", 1))]
    task = Task(labels, {"test": labels}, 3, seed=0)
    with caplog.at_level("INFO", logger="hjepa"):
        probe_scores(kinds, task, [0, 1])
        knn_scores(kinds, task, [0, 1], [1, 5], 5)
    names = ["trained", "trained level 0", "trained level 1", "pixels"]
    assert caplog.messages == [
        f"evaluation: {kind}: {place} of 4 sets of features ({name})"
        for kind in ("linear probe", "k-NN")
        for place, name in enumerate(names, 1)
    ]
