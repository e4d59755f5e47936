"""Which images are encoded, and the features extracted from them."""

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa.config import DataConfig
from hjepa.data import build_dataset, eval_batches
from hjepa.errors import DataError
from hjepa.evaluation import View, encode, extract
from hjepa.evaluation.controls import pixel_components, pixel_size, pixels
from hjepa.evaluation.features import encoder_reader
from hjepa.evaluation.sample import draw_read, draw_train
from hjepa.training import load_run, untrained_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(run_dir):
    return load_run(run_dir, device="cpu")


@pytest.fixture(scope="module")
def dataset(run):
    return build_dataset(run.config.data, "train", seed=run.config.seed)


def as_pixels(images):
    return {"pixels": pixels(images)}


def view(run, batch_size=64):
    return View(run.model.geometry.image_size, run.mean, run.std, CPU, batch_size)


def test_features_are_the_target_encoders_tokens_averaged_per_level(run, dataset):
    rows = torch.tensor([5, 3, 60])
    levels, found = extract(run.encoder, dataset, view(run), rows)
    assert torch.equal(found, rows)
    (batch,) = eval_batches(dataset, rows, (16, 16), mean=run.mean, std=run.std, batch_size=3, device=CPU)
    with torch.no_grad():
        tokens = run.model(batch.images)
    assert len(levels) == len(tokens) == 2
    for features, level_tokens in zip(levels, tokens, strict=True):
        torch.testing.assert_close(features, level_tokens.mean(dim=1))


def test_features_do_not_depend_on_batch_size_or_repetition(run, dataset):
    rows = torch.arange(50)
    first, _ = extract(run.encoder, dataset, view(run, 64), rows)
    second, _ = extract(run.encoder, dataset, view(run, 7), rows)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_one_pass_serves_several_encoders(run, dataset):
    encoders = [as_pixels, lambda images: {"mean": images.mean(dim=(2, 3))}]
    features, rows = encode(dataset, None, encoders, view(run))
    assert len(rows) == len(dataset) == 200
    assert features["pixels"].shape == (200, 3 * 16 * 16)
    torch.testing.assert_close(features["mean"], features["pixels"].reshape(200, 3, -1).mean(dim=2))


def test_levels_and_depths_of_a_model_are_read_in_one_pass(run, dataset):
    passes = []
    handle = run.model.target_encoder.register_forward_hook(lambda *_: passes.append(1))
    features, _ = encode(dataset, torch.arange(10), [encoder_reader(run.encoder, "trained", [2, 1])], view(run))
    handle.remove()
    assert len(passes) == 1
    (batch,) = eval_batches(dataset, torch.arange(10), (16, 16), mean=run.mean, std=run.std, batch_size=10, device=CPU)
    with torch.no_grad():
        levels = run.model.extract_features(batch.images)
        depths = run.model.extract_features(batch.images, depths=[2, 1])
    assert features.keys() == {"trained", "trained_depths"}
    torch.testing.assert_close(features["trained"], levels)
    torch.testing.assert_close(features["trained_depths"], depths)


def test_the_untrained_encoder_equals_step_zero_of_the_run(run, dataset):
    untrained = untrained_encoder(run)
    again = untrained_encoder(run)
    ours, _ = extract(untrained, dataset, view(run), torch.arange(20))
    same, _ = extract(again, dataset, view(run), torch.arange(20))
    trained, _ = extract(run.encoder, dataset, view(run), torch.arange(20))
    assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))
    assert not torch.equal(ours[1], trained[1])


def picture_folder(root, good: int, bad: int):
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(good):
        image = Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8))
        image.save(root / "ab"[i % 2] / f"{i:03d}.png")
    for i in range(bad):
        (root / "a" / f"x{i}.png").write_text("no picture")
    return DataConfig(dataset="folder", data_path=root, storage="workers", test_fraction=0.3)


def test_rows_stay_aligned_when_a_file_becomes_unreadable(run, tmp_path):
    data = picture_folder(tmp_path / "set", good=30, bad=0)
    dataset = build_dataset(data, "train", seed=0)
    doomed = {dataset.identifiers[2], dataset.identifiers[9]}
    for name in doomed:
        (tmp_path / "set" / name).write_bytes(b"broken")
    features, rows = encode(dataset, None, [as_pixels], view(run, 8))
    assert {dataset.identifiers[i] for i in range(len(dataset)) if i not in rows.tolist()} == doomed
    assert len(features["pixels"]) == len(rows) == len(dataset) - 2


def test_a_split_that_cannot_be_read_at_all_is_an_error(run, tmp_path):
    data = picture_folder(tmp_path / "set", good=12, bad=0)
    dataset = build_dataset(data, "train", seed=0)
    for file in (tmp_path / "set").rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="no readable image in the train split"):
        encode(dataset, None, [as_pixels], view(run))


def test_training_images_are_balanced_labelled_and_seeded():
    labels = torch.tensor([0] * 500 + [1] * 60 + [2] * 7 + [-1] * 100)
    rows = draw_train(labels, 667, 90, seed=1)
    assert torch.equal(torch.bincount(labels[rows]), torch.tensor([42, 41, 7])) or torch.equal(
        torch.bincount(labels[rows]), torch.tensor([41, 42, 7])
    )
    assert torch.equal(rows, rows.unique())
    assert torch.equal(rows, draw_train(labels, 667, 90, seed=1))
    assert not torch.equal(rows, draw_train(labels, 667, 90, seed=2))
    everything = draw_train(labels, 667, None, seed=1)
    assert torch.equal(everything, torch.arange(567))
    assert torch.equal(draw_train(labels, 667, 9999, seed=1), everything)


def test_without_labels_any_image_may_be_drawn():
    assert len(draw_train(None, 50, 20, seed=0)) == 20
    assert torch.equal(draw_train(None, 50, None, seed=0), torch.arange(50))
    assert torch.equal(draw_read(torch.full((50,), -1), 50, None, seed=0), torch.arange(50))


def test_test_images_are_drawn_uniformly_from_the_labelled_ones():
    labels = torch.tensor([0] * 900 + [1] * 100 + [-1] * 50)
    rows = draw_read(labels, 1050, 300, seed=0)
    assert len(rows) == 300
    assert (labels[rows] >= 0).all()
    # Not balanced: the rare class keeps roughly its share of the split.
    assert 10 < int((labels[rows] == 1).sum()) < 60
    assert torch.equal(draw_read(labels, 1050, None, seed=0), torch.arange(1000))


@pytest.mark.parametrize(
    ("size", "expected"), [((32, 32), (32, 32)), ((224, 224), (32, 32)), ((64, 256), (8, 32)), ((8, 512), (1, 32))]
)
def test_raw_pixels_are_reduced_to_a_size_that_a_probe_can_fit(size, expected):
    assert pixel_size(size) == expected
    assert pixels(torch.zeros(2, 3, *size)).shape == (2, 3 * expected[0] * expected[1])


def test_raw_pixels_equal_the_image_values():
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pixels(images).reshape(2, 3, 32, 32), images)
    # Antialiased: a fine chequerboard becomes its mean, not one of its colours.
    board = torch.ones(64, 64)
    board[::2, ::2] = board[1::2, 1::2] = -1
    assert pixels(board[None, None]).abs().max() < 0.3


def test_components_are_fitted_on_training_pixels_alone():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(40, 300, generator=generator), torch.randn(10, 300, generator=generator)
    first, read = pixel_components(train, {"test": test})
    projected = read["test"]
    assert first.shape == (40, 40)
    assert projected.shape == (10, 40)
    second, _ = pixel_components(train, {"test": test * 100})
    assert torch.equal(first, second)
    assert pixel_components(torch.randn(500, 300, generator=generator), {"test": test})[0].shape == (500, 128)
