"""Which figures are drawn, of which pictures, and where."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hjepa.cli.arguments import normalise
from hjepa.cli.main import app, main
from hjepa.errors import UserError
from hjepa.runs.load import load_run
from hjepa.visualization import visualize
from hjepa.visualization.catalogue import NAMES, choose
from hjepa.visualization.figures.neighbours import neighbours_figure
from hjepa.visualization.material import Material
from hjepa.visualization.own_pictures import OwnPictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of several sizes, one of them grey, and a file that is none."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, shape in {"wide.png": (20, 50, 3), "tall, grey.png": (40, 17), "c.png": (16, 16, 3)}.items():
        Image.fromarray(draw.integers(0, 255, shape, dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    return folder


def test_named_figures_alone_are_drawn_in_the_order_of_the_report(labelled_run: Path, tmp_path: Path) -> None:
    written = visualize(labelled_run, figures=["rollout", "curves"], output_dir=tmp_path / "new", device="cpu")
    assert [path.name for path in written] == ["curves.png", "rollout.png"]
    assert sorted((tmp_path / "new").iterdir()) == sorted(written)


def test_svg_files_are_equal_for_equal_figures(labelled_run: Path, tmp_path: Path) -> None:
    first, second = (
        visualize(labelled_run, figures=["attention"], file_format="svg", output_dir=tmp_path / name, device="cpu")[0]
        for name in ("a", "b")
    )
    assert first.name == "attention.svg"
    assert first.read_bytes() == second.read_bytes()
    assert b"<svg" in first.read_bytes()
    with pytest.raises(UserError, match="--format: pdf"):
        visualize(labelled_run, file_format="pdf", device="cpu")  # type: ignore[arg-type]


def test_nothing_is_overwritten_without_force(labelled_run: Path, tmp_path: Path) -> None:
    visualize(labelled_run, figures=["attention", "rollout"], output_dir=tmp_path, device="cpu")
    before = (tmp_path / "attention.png").read_bytes()
    (tmp_path / "attention.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"attention\.png and 1 more exists; .*--force") as caught:
        visualize(labelled_run, figures=["attention", "rollout", "masks"], output_dir=tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "attention.png").read_bytes() == b"mine"
    assert not (tmp_path / "masks.png").exists()
    visualize(labelled_run, figures=["attention"], output_dir=tmp_path, device="cpu", force=True)
    assert (tmp_path / "attention.png").read_bytes() == before


def test_own_pictures_are_shown_by_name(labelled_run: Path, photos: Path, tmp_path: Path) -> None:
    names = ["masks", "predictions", "patches", "decoder", "attention", "rollout", "maps", "highres", "neighbours"]
    assert [kind.name for kind in choose(None, own_pictures=True)] == names
    written = visualize(labelled_run, images=photos, output_dir=tmp_path / "out", device="cpu")
    assert [path.stem for path in written] == names
    run = load_run(labelled_run, device="cpu")
    own = OwnPictures(run, [photos / "wide.png", photos])
    assert own.names(own.order) == ["wide", "c", "tall, grey", "wide"]
    normalised, rows = own.normalised(own.order)
    assert normalised.shape == (4, run.channels, 16, 16)
    assert rows.tolist() == [0, 1, 2, 3]


def test_a_picture_that_is_in_the_gallery_is_its_own_nearest_neighbour(labelled_run: Path, tmp_path: Path) -> None:
    run = load_run(labelled_run, device="cpu")
    held_out = Material(run, labelled_run, run.config)
    rows = held_out.gallery.rows[[4, 9]]
    for row in rows.tolist():
        Image.fromarray(held_out.images.dataset.read(row)[0].numpy()).save(tmp_path / f"{row}.png")
    material = Material(run, labelled_run, run.config, paths=[tmp_path / f"{row}.png" for row in rows.tolist()])
    figure = neighbours_figure(material.images, material.gallery, material.own_gallery)
    for row, head in zip(figure.draw.__self__.rows, material.shown.pictures, strict=True):
        assert np.abs(row.query.picture.astype(int) - head).max() == 0
        assert np.abs(row.ours[0].picture.astype(int) - head).max() <= 1
        assert np.abs(row.theirs[0].picture.astype(int) - head).max() <= 1


def test_own_pictures_need_no_data_set_for_figures_of_the_encoder(
    labelled_run: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(labelled_run, folder)
    written = visualize(
        folder,
        figures=["attention", "rollout", "highres", "masks"],
        images=[photos / "c.png"],
        output_dir=tmp_path / "out",
        device="cpu",
        overrides={"data.data_path": str(tmp_path / "nowhere")},
    )
    assert len(written) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("missing.png", "missing.png: no such file or folder"),
        ("notes.txt", "notes.txt.*; leave it out or convert it"),
        ("empty", "empty holds no pictures"),
    ],
)
def test_pictures_that_cannot_be_shown_are_one_line(
    labelled_run: Path, photos: Path, given: str, message: str, tmp_path: Path
) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        visualize(labelled_run, figures=["attention"], images=photos / given, output_dir=tmp_path / "x", device="cpu")
    assert str(caught.value).startswith("--images: ")
    assert "\n" not in str(caught.value)


def test_too_many_pictures_are_refused(labelled_run: Path, photos: Path) -> None:
    with pytest.raises(UserError, match="65 pictures are too many"):
        OwnPictures(load_run(labelled_run, device="cpu"), [photos / "c.png"] * 65)


def test_unknown_figures_are_one_line(labelled_run: Path) -> None:
    with pytest.raises(UserError, match=r"unknown figure atention; did you mean attention\?"):
        visualize(labelled_run, figures=["curves", "atention"], device="cpu")
    with pytest.raises(UserError, match="choose from curves, health"):
        choose(["zzz"])
    with pytest.raises(UserError, match="none given"):
        choose([])


def test_umap_needs_its_package(labelled_run: Path, tmp_path: Path) -> None:
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"pip install 'hjepa\[umap\]'"):
            visualize(labelled_run, figures=["umap"], output_dir=tmp_path, device="cpu")
        assert "umap" not in [kind.name for kind in choose(None)]
    else:
        written = visualize(labelled_run, figures=["umap"], output_dir=tmp_path, device="cpu")
        assert [path.name for path in written] == ["umap.png"]


def test_packed_models_have_no_predictor(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="predictions cannot be drawn: A packed model is an encoder without"):
        visualize("hjepa-tiny-cifar10", figures=["predictions"], images=photos / "c.png", device="cpu")
    written = visualize("hjepa-tiny-cifar10", figures=["attention"], images=photos / "c.png", device="cpu")
    assert [path.resolve() for path in written] == [tmp_path / "figures" / "attention.png"]


def test_the_command_reads_run_figures_and_pictures(labelled_run: Path, photos: Path, tmp_path: Path) -> None:
    arguments = normalise(
        [
            "visualize", str(labelled_run), "--figures", "attention", "masks", "--images", str(photos / "tall, grey.png"),
            str(photos / "c.png"), "--output", str(tmp_path / "out"), "--device", "cpu", "data.num_workers=0",
        ]
    )  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert [Path(line).name for line in result.stdout.splitlines()] == ["masks.png", "attention.png"]


def test_the_command_lists_all_figures() -> None:
    result = CliRunner().invoke(app, ["visualize", "--list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(NAMES)
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b"], "b: unexpected after a"),
        (["a", "--checkpoint", "b"], "a: unexpected, as --checkpoint is given"),
        (["nowhere"], "nowhere: no such checkpoint, run folder or shipped model"),
        (["hjepa-tiny-cifar10", "--figures", "nonsense"], "--figures: unknown figure nonsense"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["visualize", *arguments])
    assert caught.value.code == 2
    output = capsys.readouterr().err.strip()
    assert message in output
    assert output.count("\n") == 0
