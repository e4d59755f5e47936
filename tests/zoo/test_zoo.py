"""Packing the encoder of a run, and using it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import run_tiny

import hjepa
from hjepa.config import flat_values, load_config
from hjepa.errors import CheckpointError, UserError
from hjepa.evaluation import evaluate
from hjepa.training import load_run
from hjepa.zoo import load_pretrained, pack_run, shipped_models


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "run"
    run_tiny(folder, {"evaluation.train_images": 96, "evaluation.test_images": 60})
    evaluate(folder)
    return folder


@pytest.fixture(scope="module")
def packed(run_dir: Path) -> Path:
    return pack_run(run_dir, run_dir.parent / "packed", name="tiny-shapes", command="hjepa train --config tiny.yaml")


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 24, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_packed_encoder_gives_the_features_of_the_run(run_dir: Path, packed: Path, pictures: torch.Tensor) -> None:
    small, full = load_pretrained(packed), load_pretrained(run_dir)
    assert torch.allclose(small.embed(pictures), full.embed(pictures), rtol=0.05, atol=0.02)
    run = load_run(run_dir, device="cpu")
    x = full.preprocess(pictures)
    assert torch.equal(full.embed(pictures), run.model.extract_features(x).detach())
    assert torch.equal(full.embed(pictures, batch_size=2), full.embed(pictures))
    assert [tuple(level.shape) for level in small(x)] == [(5, 16, 32)] * 2
    weights = load_file(packed / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert not any("predictor" in name for name in weights)


def test_images_are_embedded_at_any_depths(run_dir: Path, pictures: torch.Tensor) -> None:
    encoder = load_pretrained(run_dir)
    count = encoder.encoder.geometry.depth
    everywhere = encoder.embed(pictures, depths=range(1, count + 1), batch_size=2)
    assert everywhere.shape == (5, count * encoder.embed_dim)
    assert torch.equal(everywhere[:, -encoder.embed_dim :], encoder.embed(pictures, level=-1))
    with pytest.raises(ValueError, match=f"depth {count + 1} of an encoder with {count} blocks"):
        encoder.embed(pictures, depths=[count + 1])
    with pytest.raises(ValueError, match="no depths"):
        encoder.embed(pictures, depths=[])


def test_preprocessing_is_that_of_the_evaluation(run_dir: Path) -> None:
    from hjepa.data import build_dataset, eval_batches

    run = load_run(run_dir, device="cpu")
    data = build_dataset(run.config.data, "test", seed=0)
    rows = torch.arange(8)
    (batch,) = eval_batches(
        data, rows, (16, 16), mean=run.mean, std=run.std, batch_size=8, num_workers=0, device=torch.device("cpu")
    )
    images, _ = hjepa.data.shapes.generate(8, image_size=16, split="test")  # type: ignore[attr-defined]
    assert torch.allclose(load_pretrained(run_dir).preprocess(images), batch.images, atol=1e-5)


def test_a_packed_encoder_can_be_fine_tuned(packed: Path, pictures: torch.Tensor) -> None:
    encoder = load_pretrained(packed)
    features = encoder.extract_features(encoder.preprocess(pictures))
    assert not features.requires_grad
    encoder.requires_grad_(True)
    loss = encoder.extract_features(encoder.preprocess(pictures)).square().mean()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_a_packed_encoder_is_evaluated_like_a_run(
    run_dir: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = evaluate(packed)
    assert (tmp_path / "results.json").is_file()
    before = json.loads((run_dir / "results.json").read_text())
    assert found["linear_probe"]["untrained"] == before["linear_probe"]["untrained"]
    assert found["linear_probe"]["trained"] == pytest.approx(before["linear_probe"]["trained"], abs=0.06)


def test_the_card_describes_the_model(packed: Path) -> None:
    card = (packed / "README.md").read_text()
    results = json.loads((packed / "results.json").read_text())
    assert "hjepa train --config tiny.yaml" in card
    assert f"{100 * results['linear_probe']['trained']:.1f}" in card
    assert "raw pixels" in card
    about = json.loads((packed / "model.json").read_text())
    assert about["seconds"] == results["training_seconds"] > 0
    assert f"{about['seconds'] / 60:.0f} minutes" in card
    assert 0 < about["half_precision_error"] < 0.01
    assert "data_path: null" in (packed / "config.yaml").read_text()


def test_weights_have_the_file_permissions_of_the_card(packed: Path) -> None:
    assert (packed / "model.safetensors").stat().st_mode == (packed / "README.md").stat().st_mode


def test_the_card_counts_the_images_of_all_processes(run_dir: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(run_dir, tmp_path / "run")
    facts = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**facts, "processes": 3}))
    batch = load_config(run_dir / "config.yaml").data.batch_size
    card = (pack_run(folder, tmp_path / "three", name="three") / "README.md").read_text()
    assert f"steps of {3 * batch} images" in card


def test_runs_that_cannot_be_packed_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--name"):
        pack_run(run_dir, tmp_path / "p", name="My Model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match="is not a packed model"):
        pack_run(run_dir, tmp_path / "full", name="x")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "do not touch"
    with pytest.raises(CheckpointError, match="no such"):
        pack_run(tmp_path / "none", tmp_path / "p", name="x")


def test_damaged_files_are_detected(packed: Path, tmp_path: Path) -> None:
    import shutil

    for number, spoil in enumerate(("truncate", "lacking", "newer", "about")):
        folder = shutil.copytree(packed, tmp_path / str(number))
        weights = folder / "model.safetensors"
        if spoil == "truncate":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif spoil == "lacking":
            state = load_file(weights)
            state.pop("norm.weight")
            save_file(state, weights)
        elif spoil == "newer":
            about = json.loads((folder / "model.json").read_text())
            (folder / "model.json").write_text(json.dumps({**about, "format_version": 99}))
        else:
            (folder / "model.json").write_text("{")
        with pytest.raises(CheckpointError, match=str(folder)) as error:
            load_pretrained(folder)
        assert "\n" not in str(error.value)


def test_unknown_model_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match="shipped model"):
        load_pretrained("hjepa-gigantic")


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_load_and_have_the_documented_size(name: str, pictures: torch.Tensor) -> None:
    from hjepa.zoo.files import shipped_folder

    encoder = hjepa.load_pretrained(name)
    assert sum(p.numel() for p in encoder.encoder.parameters()) <= 6_000_000
    assert (shipped_folder() / name / "model.safetensors").stat().st_size <= 12_000_000
    features = encoder.embed(pictures)
    assert features.shape == (5, encoder.num_levels * encoder.embed_dim)
    assert torch.isfinite(features).all()
    probe = encoder.card["results"]["linear_probe"]
    assert probe["trained"] > probe["untrained"] > 0
    assert "hjepa train --config" in encoder.card["command"]


@pytest.mark.parametrize("name", shipped_models())
def test_the_command_on_the_card_gives_the_configuration_of_the_packed_run(name: str) -> None:
    from hjepa.zoo.files import shipped_folder

    words = shlex.split(hjepa.load_pretrained(name).card["command"])
    preset = words[words.index("--config") + 1]
    asked = load_config(preset, dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-")))
    packed = load_config(shipped_folder() / name / "config.yaml")
    # The probe may be run by a separate command, and the location of the images is not published.
    silent = ("evaluation.", "logging.", "data.data_path")
    assert _without(silent, flat_values(packed)) == _without(silent, flat_values(asked))


def _without(prefixes: tuple[str, ...], values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if not key.startswith(prefixes)}


@pytest.mark.parametrize(
    ("stride", "text"),
    [(1, "after block 2"), (0, "after block 2, whole image"), (2, "2x2 averaged"), ([1, 2], "1x2 averaged")],
)
def test_the_card_says_what_each_level_averages(stride: int | list[int], text: str) -> None:
    from hjepa.zoo.card import _level

    assert _level(2, stride).endswith(text)
