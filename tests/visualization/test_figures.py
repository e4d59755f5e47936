"""Properties of the computations behind figures."""

import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.health.synthetic_records import train_record

from hjepa.config.grid import per_axis
from hjepa.data import Splits
from hjepa.errors import UserError
from hjepa.masking import MaskSampler
from hjepa.runs.records import Records, read_json, read_records, series
from hjepa.training import load_run, untrained_encoder
from hjepa.visualization.features import encode_gallery
from hjepa.visualization.figures.curves import curves_figure
from hjepa.visualization.figures.embedding import principal_plane, tsne
from hjepa.visualization.figures.figure import Omitted
from hjepa.visualization.figures.maps import pca_rgb
from hjepa.visualization.figures.masks import outline, seams
from hjepa.visualization.figures.neighbours import choose_queries, others, same_class
from hjepa.visualization.figures.picture_grid import PictureGrid
from hjepa.visualization.figures.style import DARK, DPI, LIGHT, new_figure, to_png
from hjepa.visualization.split_images import SplitImages, three_channels


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_records_with_a_partial_line_and_a_repeated_step_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [train_record(10), train_record(20, loss=9.0), train_record(20, loss=1.0), {"kind": "eval", "step": 20}]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "train", "st', encoding="utf-8")
    records = read_records(path)
    assert [r["step"] for r in records.train] == [10, 20]
    assert records.train[1]["loss"] == 1.0
    assert len(records.evaluations) == 1
    assert records.unreadable == 1
    assert records.steps_per_epoch == pytest.approx(200)
    assert [r["step"] for r in records.until(15).train] == [10]


def test_missing_files_give_none_and_damaged_ones_are_reported(tmp_path):
    assert read_records(tmp_path / "metrics.jsonl").train == []
    assert read_json(tmp_path / "results.json", "again") is None
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: cannot be read as JSON .*; again"):
        read_json(tmp_path / "results.json", "again")


def test_series_leave_out_what_is_not_a_number():
    records = [{"step": 1, "a": 1.0}, {"step": 2, "a": float("nan")}, {"step": 3}, {"step": 4, "a": None}]
    assert series(records, "a") == ([1], [1.0])


@pytest.mark.parametrize("count", [1, 2, 40])
def test_curves_of_few_and_many_records(count):
    train = [train_record(s) for s in range(10, 10 * count + 1, 10)]
    figure = curves_figure(Records(train), ["level 0", "level 1"], 10 * count, "go on")
    for theme in (LIGHT, DARK):
        assert to_png(figure.draw(theme)).startswith(b"\x89PNG")
    assert "level 1 loss 0.05 at the end with chance level 0.25" in figure.alt


def test_curves_mark_a_checkpoint_that_is_not_the_last():
    records = Records([train_record(s) for s in (100, 200, 300)])
    assert "vertical line" in curves_figure(records, ["a", "b"], 200, "").caption
    assert "vertical line" not in curves_figure(records, ["a", "b"], 300, "").caption
    assert isinstance(curves_figure(Records(), ["a"], 5, "go on"), Omitted)


def test_curves_handle_zero_losses_and_non_finite_numbers():
    train = [train_record(s, loss__level_0=0.0, chance__level_0=0.0, grad_norm=None) for s in (10, 20)]
    train.append(train_record(30, loss__level_1=float("nan"), lr=0.0))
    assert to_png(curves_figure(Records(train), ["a", "b"], 30, "").draw(LIGHT))


def test_the_curve_of_the_rank_begins_with_the_untrained_encoder() -> None:
    found = [{"kind": "eval", "step": 100, "epoch": 1.0, "rank/level_0": 20.0, "rank": 20.0}]
    before = {"kind": "untrained", "step": 0, "epoch": 0.0, "rank/level_0": 5.0}
    records = Records([train_record(s) for s in (50, 100)], found, untrained=before)
    drawn = curves_figure(records, ["a", "b"], 100, "").draw(LIGHT)
    [axes] = [axes for axes in drawn.axes if axes.get_title(loc="left").startswith("Effective rank")]
    assert axes.lines[0].get_ydata().tolist() == [5.0, 20.0]


def test_outline_and_seams_include_every_edge():
    cells = np.random.Generator(np.random.Philox(key=3)).random((6, 9)) < 0.5
    around, between = outline(cells), seams(cells)
    # Every cell has four edges; an inner one belongs to two cells.
    assert len(around) + 2 * len(between) == 4 * cells.sum()
    assert not set(around) & set(between)
    assert len(outline(np.ones((2, 3), dtype=bool))) == 10


def test_maps_are_grey_for_constant_features_and_coloured_otherwise():
    flat = pca_rgb(torch.ones(4, 6, 8), (2, 3), 2)
    assert len(flat) == 2
    assert flat[0].shape == (2, 3, 3)
    assert np.ptp(flat[0]) == 0
    coloured = pca_rgb(noise(4, 6, 8), (2, 3), 4)
    assert np.ptp(np.stack(coloured)) == 255
    narrow = pca_rgb(noise(4, 6, 2), (2, 3), 1)
    assert narrow[0].shape == (2, 3, 3)


def test_neighbours_exclude_the_image_itself_even_among_duplicates():
    features = torch.cat([noise(5, 8), noise(1, 8, seed=1).expand(6, 8)])
    found = others(features, 3)
    assert found.shape == (11, 3)
    assert not (found == torch.arange(11)[:, None]).any()
    assert set(found[7].tolist()) <= set(range(5, 11))


def test_same_class_counts_known_classes_only():
    found = torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]])
    assert same_class(found, torch.tensor([0, 0, 1, -1])) == pytest.approx(2 / 6)


def test_queries_cover_all_classes_before_repeating_one():
    labels = torch.tensor([2, 2, 0, -1, 1, 0])
    assert choose_queries(labels, 6, 3).tolist() == [2, 4, 0]
    assert choose_queries(labels, 6, 5).tolist() == [2, 4, 0, 1, 3]
    assert choose_queries(labels, 6, 2).tolist() == [2, 0]
    assert choose_queries(None, 6, 4).tolist() == [0, 1, 2, 3]
    assert len(choose_queries(labels, 6, 10)) == 6


def test_pca_and_tsne_are_functions_of_features_and_seed():
    features = torch.cat([noise(30, 6), noise(30, 6, seed=1) + 8])
    points, share = principal_plane(features)
    assert points.shape == (60, 2)
    assert 0.5 < share <= 1
    # Two clusters this far apart stay apart along the first component.
    assert (points[:30, 0] > 0).all() != (points[30:, 0] > 0).all()
    assert principal_plane(torch.ones(5, 1))[0].shape == (5, 2)
    first, again = tsne(features, 3), tsne(features, 3)
    assert np.array_equal(first, again)


def test_three_channels():
    assert torch.equal(three_channels(torch.ones(2, 1, 4, 4)), torch.ones(2, 3, 4, 4))
    two = three_channels(torch.ones(2, 2, 4, 4))
    assert two[:, :2].all()
    assert not two[:, 2].any()
    many = noise(2, 7, 4, 4)
    assert torch.equal(three_channels(many), many[:, :3])


def test_images_are_in_seeded_order_and_shown_as_stored(labelled_run):
    run = load_run(labelled_run, device="cpu")
    images, again = (SplitImages(run, Splits(run.config.data, run.config.seed)) for _ in range(2))
    assert torch.equal(images.order, again.order)
    # As many as the evaluation reads, each once.
    assert len(images.order) == len(images.order.unique()) == run.config.evaluation.test_images
    assert images.order.max() < len(images.dataset)
    batch, rows = images.normalised(images.order[:3])
    assert torch.equal(rows, images.order[:3])
    shown = images.pictures(batch)
    stored = images.dataset.read(int(rows[0])).float()
    assert abs(shown[0].mean() - float(stored.mean())) < 3
    assert images.display_note() == ""


def test_dim_images_are_brightened_and_the_caption_says_so(labelled_run):
    run = load_run(labelled_run, device="cpu")
    images = SplitImages(run, Splits(run.config.data, run.config.seed))
    dim = (torch.full((1, 1, 4, 4), 0.1) - torch.tensor(run.mean)) / torch.tensor(run.std)
    assert images.pictures(dim)[0].max() == 255
    assert "Brightened 10 times" in images.display_note()


def test_gallery_has_the_features_of_its_rows(labelled_run):
    run = load_run(labelled_run, device="cpu")
    images = SplitImages(run, Splits(run.config.data, run.config.seed))
    gallery = encode_gallery(images, run.encoder, untrained_encoder(run))
    assert len(gallery) == len(images.order) == run.config.evaluation.test_images < len(images.dataset)
    batch, rows = images.normalised(gallery.rows[:2])
    with torch.no_grad():
        features = run.encoder.extract_features(batch)
    expected = torch.cat([torch.nn.functional.normalize(part, dim=1) for part in features.chunk(2, dim=1)], dim=1)
    assert torch.allclose(gallery.trained[:2], expected, atol=1e-5)
    assert torch.equal(gallery.labels[:2], images.dataset.labels[rows])
    assert not torch.allclose(gallery.trained, gallery.untrained)


@pytest.mark.parametrize(("columns", "aspect"), [(1, 1.0), (11, 0.5), (9, 2.0)])
def test_images_keep_their_aspect_ratio_and_place(columns, aspect):
    grid = PictureGrid(3, columns, aspect, LIGHT, below=0.2, groups=(1,) if columns > 1 else ())
    width, height = grid.figure.get_size_inches()
    assert width <= 9.001
    assert grid.cell[1] / grid.cell[0] == pytest.approx(aspect, rel=1e-3)
    draw = np.random.default_rng(0)
    tall = max(1, round(8 * aspect))
    picture = draw.integers(0, 255, (tall, round(tall / aspect), 3), dtype=np.uint8)
    for row in range(3):
        for column in range(columns):
            x, y = grid.corner(row, column)
            assert x >= 0
            assert y >= 0
            assert x + grid.cell[0] <= width
            assert y + grid.cell[1] + 0.2 <= height
            grid.show(row, column, picture)
    seen = np.asarray(Image.open(io.BytesIO(to_png(grid.figure))).convert("RGB"))
    # Every picture stands where it should: the middle of each of its pixels has that pixel's colour.
    for row, column in itertools.product(range(3), range(columns)):
        x, y = grid.corner(row, column)
        for (i, j), _ in np.ndenumerate(picture[..., 0]):
            down = y + (i + 0.5) / picture.shape[0] * grid.cell[1]
            across = x + (j + 0.5) / picture.shape[1] * grid.cell[0]
            assert (seen[int(down * DPI), int(across * DPI)] == picture[i, j]).all()


def test_equal_figures_give_equal_files():
    first, second = (to_png(new_figure(1, DARK)) for _ in range(2))
    assert first == second


def test_drawn_masks_are_those_of_training(pooled_run):
    run = load_run(pooled_run, device="cpu")
    geometry = run.model.geometry
    strides = [level.stride for level in geometry.levels]
    sampler = MaskSampler(run.config.masking, geometry.grid, strides, seed=run.config.seed)
    from hjepa.visualization.figures.masks import _draw

    overlay = _draw(sampler, geometry, sampler.groups, 0, 4)
    assert overlay.context.sum(axis=(1, 2)).tolist() == [sampler.counts.context] * 4
    assert [t.shape[1:] for t in overlay.targets] == [geometry.level_grid(i) for i in range(3)]
    for target, count, stride in zip(overlay.targets, sampler.counts.targets, strides, strict=True):
        assert target.sum(axis=(1, 2)).tolist() == [count] * 4
        down, across = per_axis(stride, 2)
        fine = target.repeat(down, axis=1).repeat(across, axis=2)
        assert not (fine & overlay.context).any()
