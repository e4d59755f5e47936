"""Every protocol on frozen features, on a real run, with its printed table."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hjepa
from hjepa.errors import UserError
from hjepa.evaluation import cka_between, evaluate, print_blocks
from hjepa.evaluation.protocols import DEFAULT_TYPES, PROTOCOLS, parse_eval_types
from hjepa.evaluation.protocols.few_shot import PER_CLASS, SHARES
from hjepa.metrics import rankme
from hjepa.training import load_run

FROZEN = ("linear_probe", "attentive", "few_shot", "quality")


@pytest.fixture(scope="module")
def results(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("protocols") / "r.json"
    with pytest.MonkeyPatch.context() as patch:  # fewer repetitions, so that the test is quick
        patch.setattr("hjepa.evaluation.protocols.few_shot.REPEATS", 2)
        patch.setattr("hjepa.evaluation.protocols.few_shot.EPISODES", 30)
        patch.setattr("hjepa.metrics.attentive.FEWEST_STEPS", 10)
        found = evaluate(run_dir, eval_type=FROZEN, device="cpu", output=output)
    assert json.loads(output.read_text()) == found
    return found


def test_the_default_is_the_table_of_every_run_and_all_is_more() -> None:
    assert DEFAULT_TYPES == ("linear_probe", "knn")
    assert set(FROZEN) | {"knn"} <= set(parse_eval_types("all"))
    assert parse_eval_types(["few-shot", "knn"]) == ("knn", "few_shot")
    assert all(protocol.about and name == protocol.name for name, protocol in PROTOCOLS.items())


def test_calibration_and_confusion_agree_with_the_accuracy(results: dict[str, Any]) -> None:
    probe = results["linear_probe"]
    for name in ("trained", "untrained", "pixels", "pca"):
        found = probe["calibration"][name]
        assert found["accuracy"] == pytest.approx(probe[name], abs=0.02)  # a tie may go to another class
        assert 0 <= found["ece"] <= 1
        assert found["temperature"] > 0
    matrix = np.array(probe["confusion"]["matrix"])
    assert matrix.sum() == results["images"]
    assert np.trace(matrix) / matrix.sum() == pytest.approx(probe["trained"])
    assert [entry["support"] for entry in probe["per_class"]] == matrix.sum(axis=1).tolist()
    worst = probe["confusion"]["most_frequent"][0]
    names = probe["confusion"]["classes"]
    assert matrix[names.index(worst["true"]), names.index(worst["predicted"])] == worst["images"]


def test_few_shot_scores_every_row_with_an_interval(results: dict[str, Any]) -> None:
    part = results["few_shot"]
    assert [entry["name"] for entry in part["labels"]] == [
        *(f"{k} per class" for k in PER_CLASS),
        *(f"{share:.0%} of labels" for share in SHARES),
    ]
    scored = [s for s in (*part["shots"].values(), *part["labels"]) if "skipped" not in s]
    assert scored
    for scores in scored:
        for name in ("trained", "untrained", "pixels", "pca"):
            assert 0 <= scores[name]["mean"] <= 1
            assert scores[name]["interval"] >= 0
        assert [entry["level"] for entry in scores["levels"]] == [0, 1]
    # 80 training images of 6 classes: no class has 20.
    assert "training images" in next(e for e in part["labels"] if e["name"] == "20 per class")["skipped"]


def test_attentive_probes_are_scored_per_level_and_for_patches(results: dict[str, Any]) -> None:
    part = results["attentive"]
    assert {"trained", "untrained", "pixels"} <= part.keys()
    assert all(0 <= entry[name] <= 1 for entry in part["levels"] for name in ("trained", "untrained"))
    assert {"trained", "trained_level_0", "trained_level_1", "pixels"} <= part["weight_decay"].keys()


def test_quality_is_what_the_health_module_measures(results: dict[str, Any], run_dir: Path) -> None:
    run = load_run(run_dir, device="cpu")
    splits = hjepa.Splits(run.config.data, run.config.seed)
    from hjepa.data import eval_batches
    from hjepa.evaluation.sample import draw_read
    from hjepa.health.measures import Measuring

    rows = draw_read(splits.test.labels, len(splits.test), 60, run.config.seed)
    measuring = Measuring()
    loader = eval_batches(
        splits.test,
        rows,
        run.encoder.geometry.height_width,
        mean=run.mean,
        std=run.std,
        batch_size=60,
        device=run.device,
    )
    for batch in loader:
        with torch.inference_mode():
            measuring.add(run.encoder.levels(batch.images))
    for entry, expected in zip(results["quality"]["trained"]["levels"], measuring.measures(), strict=True):
        assert entry["rank"] == pytest.approx(expected.rank, rel=1e-3)
        assert entry["cosine"] == pytest.approx(expected.cosine, abs=1e-4)
        assert entry["position"] == pytest.approx(expected.position, abs=1e-4)
    assert rankme(measuring.pooled(1)) == pytest.approx(results["quality"]["trained"]["levels"][1]["rank"], rel=1e-3)
    assert len(results["quality"]["cka_with_untrained"]) == 2


def test_the_blocks_name_every_row(results: dict[str, Any]) -> None:
    text = io.StringIO()
    print_blocks(results, text)
    for words in ("calibration", "lowest F1", "most frequent confusions", "attentive", "few labels", "feature quality"):
        assert words in text.getvalue()
    assert text.getvalue().count("untrained, level 1") >= 3
    single = io.StringIO()
    print_blocks({"knn": results["linear_probe"], "few_shot": {"skipped": "no labels"}}, single)
    assert single.getvalue() == ""


def test_without_labels_only_quality_is_measured(run_dir: Path, tmp_path: Path, caplog: Any) -> None:
    from tests.evaluation.test_evaluate_run import folder_of_pictures

    folder_of_pictures(tmp_path / "pictures", 40, ())
    with caplog.at_level(logging.WARNING, "hjepa"):
        found = evaluate(
            run_dir,
            dataset="folder",
            data_path=tmp_path / "pictures",
            eval_type=FROZEN,
            device="cpu",
            output=tmp_path / "r.json",
        )
    for name in ("linear_probe", "attentive", "few_shot"):
        assert found[name] == {"skipped": "no labels"}
        assert f"{PROTOCOLS[name].label} skipped: no labels" in caplog.text
    assert found["quality"]["images"] == found["images"]


def test_cka_of_a_run_with_itself_is_its_own_matrix(run_dir: Path, flat_run_dir: Path) -> None:
    same = cka_between(run_dir, run_dir, images=50, device="cpu")
    assert np.allclose(same["cka"], same["within_a"])
    assert np.allclose(np.diag(same["cka"]), 1)
    other = cka_between(run_dir, flat_run_dir, images=50, device="cpu")
    assert np.array(other["cka"]).shape == (2, 1)
    assert 0 <= other["cka"][0][0] < 1 + 1e-9
    assert other["images"] == 50
    backwards = cka_between(flat_run_dir, run_dir, images=50, device="cpu")
    assert np.allclose(np.array(backwards["cka"]).T, other["cka"], atol=1e-6)
    with pytest.raises(UserError, match="images: 1 cannot be compared"):
        cka_between(run_dir, run_dir, images=1)
