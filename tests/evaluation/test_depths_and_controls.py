"""Evaluating features at depths that are not levels, and evaluating without controls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hjepa.errors import UserError
from hjepa.evaluation import evaluate, format_table
from hjepa.training import load_run


def test_a_flat_model_can_be_read_at_the_depths_of_another_models_levels(flat_run_dir: Path, tmp_path: Path) -> None:
    results = evaluate(flat_run_dir, depths=[2, 1], output=tmp_path / "r.json")
    assert results["depths"] == [1, 2]
    for kind in ("linear_probe", "knn"):
        assert {"trained_depths", "untrained_depths"} <= results[kind].keys()
    assert "trained, after blocks 1, 2" in format_table(results)


def test_every_block_can_be_a_level_and_all_are_read(deep_run_dir: Path, tmp_path: Path) -> None:
    results = evaluate(deep_run_dir, depths=[1, 6], output=tmp_path / "r.json")
    for kind in ("linear_probe", "knn"):
        assert {"trained", "trained_depths"} <= results[kind].keys()
        assert len(results[kind]["levels"]) == 6
    assert load_run(deep_run_dir).model.extract_features(torch.zeros(1, 3, 16, 16)).shape == (1, 6 * 16)
    table = format_table(results)
    assert "level 5" in table
    assert "trained, after blocks 1, 6" in table


def test_depths_that_are_levels_read_the_same_features(run_dir: Path) -> None:
    model = load_run(run_dir).model
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.extract_features(images, depths=[1, 2]), model.extract_features(images))
    with pytest.raises(ValueError, match="depth 3 of an encoder with 2 blocks"):
        model.extract_features(images, depths=[3])


def test_an_untapped_depth_is_normalised_without_parameters(flat_run_dir: Path) -> None:
    model = load_run(flat_run_dir).model
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = model.extract_features(images, depths=[1], pool="none")
    assert torch.allclose(tokens.mean(dim=-1), torch.zeros(2, 16), atol=1e-5)
    assert torch.allclose(tokens.std(dim=-1, correction=0), torch.ones(2, 16), atol=1e-2)


def test_controls_can_be_left_out(run_dir: Path, tmp_path: Path) -> None:
    full = evaluate(run_dir, output=tmp_path / "full.json")
    bare = evaluate(run_dir, controls=(), output=tmp_path / "bare.json")
    assert bare["linear_probe"]["trained"] == full["linear_probe"]["trained"]
    assert not {"untrained", "pixels", "pca"} & bare["linear_probe"].keys()
    only = evaluate(run_dir, controls=["pca"], output=tmp_path / "pca.json")
    assert only["knn"]["pca"] == full["knn"]["pca"]
    assert "pixels" not in only["knn"]
    for results in (bare, only):
        assert "untrained" not in format_table(results)


@pytest.mark.parametrize(
    ("keys", "words"), [({"depths": [3]}, "depths: 3"), ({"controls": ["noise"]}, "controls: unknown value 'noise'")]
)
def test_missing_depths_and_levels_are_named_in_the_error(
    run_dir: Path, keys: dict[str, list[int]], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(run_dir, **keys)  # type: ignore[arg-type]
