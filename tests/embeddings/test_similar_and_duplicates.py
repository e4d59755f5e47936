"""`hjepa similar` and `hjepa duplicates` on images whose copies and outliers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tests.embeddings.conftest import save

from hjepa.embeddings.duplicates import duplicates
from hjepa.embeddings.embed import embed
from hjepa.embeddings.search import nearest, neighbours
from hjepa.embeddings.similar import similar
from hjepa.embeddings.store import Embeddings, open_embeddings
from hjepa.embeddings.threshold import choose_threshold
from hjepa.errors import DataError, UserError

MODEL = "hjepa-tiny-cifar10"
ORIGINALS = 60


def scene(seed: int) -> np.ndarray:
    """A picture of coloured blobs on a coloured ground [40, 40, 3], different for every seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:40, 0:40] / 40
    picture = np.broadcast_to(rng.uniform(0, 255, 3), (40, 40, 3)).copy()
    for _ in range(rng.integers(2, 6)):
        cy, cx, size = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.3)
        shape = (abs(y - cy) + abs(x - cx) if rng.random() < 0.5 else np.hypot(y - cy, x - cx)) < size
        picture[shape] = rng.uniform(0, 255, 3)
    return picture.astype(np.uint8)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty scenes; six saved as JPEG again, four as they are, four shrunk; and two of noise."""
    root = tmp_path_factory.mktemp("planted")
    for number in range(ORIGINALS):
        save(scene(number), root / f"{number:02d}.png")
    for number in range(6):
        save(scene(number), root / f"{number:02d}_jpeg.jpg", quality=92, subsampling=0)
    for number in range(10, 14):
        save(scene(number), root / f"{number:02d}_exact.bmp")
    for number in range(20, 24):
        Image.fromarray(scene(number)).resize((34, 34), Image.Resampling.BILINEAR).save(
            root / f"{number:02d}_small.png"
        )
    rng = np.random.default_rng(0)
    save(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), root / "odd_noise.png")
    stripes = np.tile(np.array([[[255, 0, 255]], [[0, 255, 0]]], dtype=np.uint8), (20, 40, 1))
    save(stripes, root / "odd_stripes.png")
    return root


@pytest.fixture(scope="module")
def file(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embeddings of `planted`."""
    output = tmp_path_factory.mktemp("file") / "planted.parquet"
    embed(MODEL, planted, output)
    return output


def stem(path: str) -> str:
    return Path(path).stem.split("_")[0]


def test_planted_copies_are_grouped_and_nothing_else(file: Path) -> None:
    result = duplicates(MODEL, file)
    groups = [sorted(image["path"] for image in group["images"]) for group in result["groups"]]
    together = {tuple(group) for group in groups}
    for number in range(6):
        assert (f"{number:02d}.png", f"{number:02d}_jpeg.jpg") in together
    for number in range(10, 14):
        assert (f"{number:02d}.png", f"{number:02d}_exact.bmp") in together
    assert all(len({stem(path) for path in group}) == 1 for group in groups), groups
    found = {stem(group[0]) for group in groups}
    assert found >= {f"{number}" for number in range(20, 24)}
    # What it says about copies agrees with what it found.
    assert result["threshold"]["copies_found"]["shrunk"] > 0.7


def test_copies_with_the_same_pixels_are_told_apart(planted: Path, file: Path) -> None:
    for data in (planted, file):
        result = duplicates(MODEL, data)
        same = {
            image["path"]: image["same_pixels_as"]
            for group in result["groups"]
            for image in group["images"]
            if image["same_pixels_as"]
        }
        assert same == {f"{number}_exact.bmp": f"{number}.png" for number in range(10, 14)}


def test_planted_outliers_come_first(file: Path) -> None:
    odd = duplicates(MODEL, file)["outliers"]
    assert {one["path"] for one in odd[:2]} == {"odd_noise.png", "odd_stripes.png"}
    distances = [one["distance"] for one in odd]
    assert distances == sorted(distances, reverse=True)


def test_a_given_threshold_is_used(file: Path) -> None:
    strict = duplicates(MODEL, file, threshold=0.999999)
    assert {image["path"] for group in strict["groups"] for image in group["images"]} >= {"10.png", "10_exact.bmp"}
    loose = duplicates(MODEL, file, threshold=-1.0)
    assert len(loose["groups"]) == 1
    assert len(loose["groups"][0]["images"]) == loose["images"]
    assert "raise --threshold" in loose["doubt"]


def test_without_the_images_nothing_is_said_about_pixels(file: Path, planted: Path, tmp_path: Path) -> None:
    moved = tmp_path / "gone"
    moved.mkdir()
    for picture in planted.iterdir():
        (moved / picture.name).write_bytes(picture.read_bytes())
    output = tmp_path / "moved.npy"
    embed(MODEL, moved, output)
    (moved / "00.png").unlink()
    result = duplicates(MODEL, output)
    assert result["pixels_compared"] is False
    assert not result["threshold"]["copies_found"]
    with pytest.raises(DataError, match="cannot be drawn"):
        duplicates(MODEL, output, output=[tmp_path / "grid.png"])


def test_outputs_are_written_once(file: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("d.json", "d.csv", "d.png")]
    result = duplicates(MODEL, file, output=outputs)
    assert json.loads(outputs[0].read_text()) == json.loads(json.dumps(result))
    assert len(outputs[1].read_text().splitlines()) == 1 + result["images_in_groups"] + len(result["outliers"])
    assert Image.open(outputs[2]).size[0] > 600
    with pytest.raises(UserError, match="--force"):
        duplicates(MODEL, file, output=outputs)


def test_a_picture_finds_itself_and_its_copies_first(planted: Path, file: Path, tmp_path: Path) -> None:
    query = planted / "03.png"
    from_images = similar(MODEL, [query], planted, k=5)["queries"][0]["neighbours"]
    from_file = similar(MODEL, [query], file, k=5)["queries"][0]["neighbours"]
    assert [near["path"] for near in from_images[:2]] == ["03.png", "03_jpeg.jpg"]
    assert from_images[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert [near["path"] for near in from_images] == [near["path"] for near in from_file]
    mirrored = tmp_path / "mirrored.png"
    ImageOps.mirror(Image.open(query)).save(mirrored)
    outputs = [tmp_path / name for name in ("s.json", "s.csv", "s.png")]
    result = similar(MODEL, [query, mirrored], file, k=100, output=outputs)
    assert len(result["queries"][1]["neighbours"]) == 76
    assert json.loads(outputs[0].read_text()) == json.loads(json.dumps(result))
    assert len(outputs[1].read_text().splitlines()) == 1 + 2 * 76


def test_a_file_of_another_model_is_refused(file: Path, run_dir: Path, planted: Path) -> None:
    for call in (lambda: similar(run_dir, [planted / "00.png"], file), lambda: duplicates(run_dir, file)):
        with pytest.raises(UserError, match="another model"):
            call()
    with pytest.raises(UserError, match="--level"):
        duplicates(MODEL, file, level=0)


def random_store(file: Path, rows: int = 50) -> Embeddings:
    """Embeddings with random features of the widths of a real file."""
    with open_embeddings(file) as found:
        about = found.about
    generator = np.random.default_rng(1)
    features = generator.normal(size=(rows, about.encoding.dimensions)).astype(np.float32)
    return Embeddings(about, [str(i) for i in range(rows)], None, features)


def test_neighbours_do_not_depend_on_blocks(file: Path) -> None:
    store, cpu = random_store(file), torch.device("cpu")
    unit = store.directions(0, 50, cpu)
    expected = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(4, dim=1)
    for block in (7, 50, 64):
        found = neighbours(store, 4, cpu, block=block)
        np.testing.assert_array_equal(found.rows, expected.indices.numpy())
        np.testing.assert_allclose(found.similarities, expected.values.numpy(), atol=1e-6)
    similarities, rows = nearest(unit[:3], store, 1, cpu)
    assert rows.flatten().tolist() == [0, 1, 2]
    torch.testing.assert_close(similarities.flatten(), torch.ones(3))


def test_every_level_counts_the_same(file: Path) -> None:
    store, cpu = random_store(file), torch.device("cpu")
    width = store.about.encoding.width
    larger = store.features.copy()
    larger[:, :width] *= 1000
    scaled = Embeddings(store.about, store.paths, None, larger)
    torch.testing.assert_close(scaled.directions(0, 50, cpu), store.directions(0, 50, cpu))


def test_the_threshold_follows_copies_where_they_stand_out_and_neighbours_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    distant = 1 - rng.lognormal(np.log(0.3), 0.2, 500).astype(np.float32)
    close = 1 - rng.lognormal(np.log(0.001), 0.2, 500).astype(np.float32)
    copies = {"re-encoded": torch.linspace(0.95, 1.0, 101), "mirrored": torch.full((101,), 0.2)}
    clear = choose_threshold(distant, copies)
    assert clear.value == pytest.approx(0.9525, abs=1e-4)
    assert clear.found["re-encoded"] == pytest.approx(0.95, abs=0.01)
    assert clear.found["mirrored"] == 0
    unclear = choose_threshold(close, copies)
    assert unclear.value > clear.value
    assert (close >= unclear.value).mean() < 0.01
    assert unclear.found["re-encoded"] < 0.1
    given = choose_threshold(distant, copies, given=0.99)
    assert given.value == 0.99
    assert given.found["re-encoded"] == pytest.approx(0.2, abs=0.02)
