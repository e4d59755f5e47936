"""What the predictor predicts, the patches it is compared with, and decoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.health.conftest import TINY

from hjepa.config import load_config
from hjepa.runs.load import load_run
from hjepa.training import run_training
from hjepa.visualization.catalogue import KINDS, choose
from hjepa.visualization.decoder import cut_cells, explained, train_decoder
from hjepa.visualization.figures.cells import cell_box, seen_part, with_cells
from hjepa.visualization.figures.decoder import predicted_share
from hjepa.visualization.figures.patches import most_hidden
from hjepa.visualization.figures.style import DARK, LIGHT, to_png
from hjepa.visualization.material import Material
from hjepa.visualization.predictions import Predicted, nearest_cells, own_share, predict
from hjepa.visualization.split_images import SplitImages


@pytest.fixture(scope="module")
def material(labelled_run):
    run = load_run(labelled_run, device="cpu")
    return Material(run, labelled_run, run.config)


@pytest.fixture(scope="module")
def pooled(pooled_run):
    run = load_run(pooled_run, device="cpu")
    return Material(run, pooled_run, run.config)


@pytest.mark.parametrize("which", ["material", "pooled"])
def test_predictions_and_truths_are_those_of_the_model(which, request) -> None:
    given = request.getfixturevalue(which)
    images = given.shown.normalised
    masks = given.sampler(0, len(images))
    with torch.no_grad():
        output = given.run.model(images, masks)
    found = given.predicted
    for level, (prediction, target) in enumerate(zip(output.predictions, output.targets, strict=True)):
        torch.testing.assert_close(found.predictions[level], prediction)
        torch.testing.assert_close(found.truths(level), target)
    assert found.context.sum(dim=1).tolist() == [given.sampler.counts.context] * len(images)


def test_centred_targets_and_several_mask_sets_are_handled(tmp_path) -> None:
    changes = {
        "model.center_targets": True,
        "masking.sets_per_image": 2,
        "model.predictor.predict_visible": True,
        "training.max_steps": 1,
    }
    run_training(load_config(TINY, changes), output_dir=tmp_path, console=False)
    run = load_run(tmp_path, device="cpu")
    given = Material(run, tmp_path, run.config)
    # With the mean of the batch itself, the targets are those of the objective, first set, hidden cells.
    images = given.shown.normalised
    with torch.no_grad():
        output = run.model(images, given.sampler(0, len(images)))
        means = [level.mean(dim=0, keepdim=True) for level in run.model.target_encoder.levels(images)]
    found = predict(images, run.model, given.sampler, means)
    for level, target in enumerate(output.targets):
        cells = found.index[level].shape[1]
        torch.testing.assert_close(found.truths(level), target[: len(images), :cells])
    assert given.bank.means is not None


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_nearest_cells_of_true_features_are_those_cells(pooled, level) -> None:
    cells = pooled.bank.cells[level]
    found = nearest_cells(cells.flatten(0, 1), cells, 1)[:, 0]
    same = F.cosine_similarity(cells.flatten(0, 1), cells.flatten(0, 1)[found], dim=1)
    # Equal patches have equal features; up to these, each cell finds itself.
    torch.testing.assert_close(same, torch.ones_like(same))
    own = torch.arange(len(found))
    assert (found == own).float().mean() > 0.5


def test_the_bank_holds_none_of_the_shown_pictures(material) -> None:
    shown, bank = material.shown.normalised, material.bank.images
    assert len(bank) == len(material.images.order) - len(shown)
    assert not (shown[:, None] == bank[None]).flatten(2).all(dim=2).any()


def test_a_prediction_of_positions_alone_is_right_half_of_the_time() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randn(200, 16, 8, generator=generator)]
    index = [torch.arange(4).expand(200, -1)]
    context = torch.zeros(200, 16, dtype=torch.bool)
    perfect = Predicted(context, index, [targets[0][:, :4]], targets)
    assert own_share(perfect, 0) == 1.0
    blind = Predicted(context, index, [targets[0].mean(dim=0)[:4].expand(200, -1, -1)], targets)
    assert own_share(blind, 0) == pytest.approx(0.5, abs=0.06)
    single = Predicted(context[:1], [index[0][:1]], [targets[0][:1, :4]], [targets[0][:1]])
    assert own_share(single, 0) is None


def test_cells_of_pictures(pooled) -> None:
    geometry = pooled.geometry
    picture = np.random.default_rng(0).integers(0, 255, (*geometry.height_width, 3), dtype=np.uint8)
    for level in range(3):
        rows, columns = geometry.level_grid(level)
        covered = np.zeros(geometry.height_width, dtype=int)
        for cell in range(rows * columns):
            covered[cell_box(geometry, level, cell)] += 1
        assert (covered == 1).all()
        # Cells cut from the tensor are those boxes, in the same order.
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
        cut = cut_cells(tensor, (rows, columns))[0]
        for cell in range(rows * columns):
            expected = picture[cell_box(geometry, level, cell)]
            assert np.array_equal(cut[cell].permute(1, 2, 0).numpy(), expected)
        index = torch.tensor([rows * columns - 1])
        filled = with_cells(picture, geometry, level, index, lambda _, e=expected: e)
        assert np.array_equal(filled[cell_box(geometry, level, int(index))], expected)
        assert filled.astype(int).sum() < picture.astype(int).sum() or rows * columns == 1
    context = torch.zeros(geometry.num_tokens, dtype=torch.bool)
    context[0] = True
    seen = seen_part(picture, context, geometry)
    box = slice(0, geometry.patch[0]), slice(0, geometry.patch[1])
    assert np.array_equal(seen[box], picture[box])
    assert seen.astype(int).sum() < 0.4 * picture.astype(int).sum()


def test_the_most_hidden_cell_is_predicted_and_far_from_everything_visible(material) -> None:
    predicted, geometry = material.predicted, material.geometry
    chosen = most_hidden(predicted, geometry, 0, 0)
    cell = int(predicted.index[0][0, chosen])
    assert not predicted.context[0, cell]
    rows, columns = geometry.grid

    def distance(place: int) -> float:
        seen = predicted.context[0].nonzero().flatten().tolist()
        return min((place // columns - s // columns) ** 2 + (place % columns - s % columns) ** 2 for s in seen)

    assert distance(cell) == max(distance(int(c)) for c in predicted.index[0][0])
    assert rows == columns


@pytest.mark.parametrize("which", ["material", "pooled"])
def test_decoders_beat_the_mean_picture_on_held_out_images(which, request) -> None:
    given = request.getfixturevalue(which)
    decoding = given.decoding
    # The whole-image level has one small vector for all pixels and few images to learn from; the others keep much.
    assert all(share > 0 for share in decoding.held_out)
    assert decoding.held_out[0] > 0.3
    assert all(share < 1 for share in given.predicted_shares)


def test_decoders_are_functions_of_data_and_seed_and_put_cells_where_they_belong(pooled) -> None:
    images = SplitImages(pooled.run, pooled.splits, "train").normalised(torch.arange(40))[0]
    grid = pooled.geometry.level_grid(1)
    # With the pixels themselves as features, a decoder only has to copy: it must come close.
    features = cut_cells(images, grid).flatten(2)
    first, again, other = (train_decoder(features, images, pooled.geometry, 1, seed, 200) for seed in (1, 1, 2))
    assert torch.equal(first.whole(features), again.whole(features))
    assert not torch.equal(first.whole(features), other.whole(features))
    assert first.whole(features).shape == images.shape
    assert explained(first.whole(features), images, images.mean(dim=0)) > 0.6
    assert explained(images, images, images.mean(dim=0)) == 1.0
    assert explained(images.mean(dim=0).expand_as(images), images, images.mean(dim=0)) == pytest.approx(0, abs=1e-5)


def test_the_share_of_predicted_cells_counts_these_cells_only(material) -> None:
    # Decoding the true features of the predicted cells is as good as they are there.
    predicted, decoder = material.predicted, material.decoding.decoders[0]
    truth = Predicted(predicted.context, predicted.index, [predicted.truths(0), predicted.truths(1)], predicted.targets)
    images, mean = material.shown.normalised, material.decoding.mean
    share = predicted_share(decoder, truth, images, mean, 0)
    boxes = predicted.index[0]
    decoded, true = decoder.whole(predicted.targets[0]), images
    errors = spreads = 0.0
    for i, cells in enumerate(boxes.tolist()):
        for cell in cells:
            rows, columns = cell_box(material.geometry, 0, cell)
            errors += float((decoded[i, :, rows, columns] - true[i, :, rows, columns]).square().sum())
            spreads += float((true[i, :, rows, columns] - mean[:, rows, columns]).square().sum())
    assert share == pytest.approx(1 - errors / spreads, rel=1e-4)


def test_predictions_without_a_length_get_that_of_targets(material) -> None:
    predicted = material.predicted
    assert material.scaled(predicted) is predicted
    config = load_config(TINY, {"loss.type": "cosine"})
    run = load_run(material.home, device="cpu")
    run.config = config
    given = Material(run, material.home, config)
    scaled = given.scaled(given.counted)
    for level, prediction in enumerate(scaled.predictions):
        truth = given.counted.truths(level)
        lengths = prediction.norm(dim=-1)
        assert float(lengths.std()) < 1e-4
        # Of all lengths of these directions, the chosen one is closest to the targets.
        errors = [float((factor * prediction - truth).square().sum()) for factor in (0.9, 1.0, 1.1)]
        assert errors[1] == min(errors)
        cosine = F.cosine_similarity(prediction, given.counted.predictions[level], dim=-1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.fixture(scope="module")
def wide(unlabelled_run):
    """Images wider than high, few of them."""
    run = load_run(unlabelled_run, device="cpu")
    return Material(run, unlabelled_run, run.config)


@pytest.mark.parametrize("which", ["material", "pooled", "wide"])
@pytest.mark.parametrize("name", ["predictions", "patches", "decoder", "highres", "cka"])
def test_figures_of_several_kinds_of_levels_draw_in_both_themes(which, name, request) -> None:
    given = request.getfixturevalue(which)
    (kind,) = choose([name])
    figure = kind.build(given)
    assert (figure.name, figure.title) == (kind.name, kind.title)
    assert to_png(figure.draw(LIGHT)) != to_png(figure.draw(DARK))
    assert len(figure.alt) > 30


def test_titles_of_the_list_are_those_of_the_figures(material) -> None:
    for kind in KINDS:
        if kind.name != "umap":
            assert kind.build(material).title == kind.title
