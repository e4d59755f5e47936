"""`hjepa embed`: what is written, and how a stopped command continues."""

from __future__ import annotations

import _thread
import csv
import json
import logging
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.data.image_files import encode, noise
from tests.data.shard_files import write_shards

import hjepa
from hjepa.config import load_config
from hjepa.data import build_dataset
from hjepa.embeddings.embed import embed
from hjepa.embeddings.store import open_embeddings
from hjepa.errors import DataError, DivergenceError, UserError
from hjepa.evaluation.features import View, encoder_reader
from hjepa.evaluation.features import encode as evaluation_features
from hjepa.runs.load import load_run


def read(file: Path) -> tuple[list[str], list[str | None] | None, torch.Tensor]:
    """Paths, labels and embeddings of a file."""
    with open_embeddings(file) as found:
        labels = None if found.labels is None else list(found.labels)
        return list(found.paths), labels, torch.from_numpy(np.array(found.features))


def test_embeddings_are_the_features_of_an_evaluation(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    embed(run_dir, photos, tmp_path / "out.parquet")
    paths, labels, features = read(tmp_path / "out.parquet")
    run = load_run(run_dir, device="cpu")
    data = load_config(
        {"data": {"dataset": "folder", "data_path": str(photos), "channels": 3, "test_fraction": 0.5}}
    ).data
    view = View(run.encoder.geometry.height_width, run.mean, run.std, run.device, batch_size=5)
    for split in ("train", "test"):
        dataset = build_dataset(data, split)  # type: ignore[arg-type]
        expected, rows = evaluation_features(dataset, None, [encoder_reader(run.encoder, "trained")], view)
        mine = [paths.index(dataset.identifiers[row]) for row in rows.tolist()]
        torch.testing.assert_close(features[mine], expected["trained"])
        assert labels is not None
        assert dataset.labels is not None
        assert dataset.class_names is not None
        names = [dataset.class_names[dataset.labels[row]] for row in rows.tolist()]
        assert [labels[i] for i in mine] == names


def test_embeddings_are_those_of_the_loaded_encoder(run_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    images = [noise(number, 16, 16) for number in range(5)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(root / f"{number}.png")
    embed(run_dir, root, tmp_path / "out.npy", level=1)
    expected = hjepa.load_pretrained(run_dir).embed(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), level=1)
    torch.testing.assert_close(read(tmp_path / "out.npy")[2], expected)


def test_the_parquet_file_describes_itself(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    embed(run_dir, photos, tmp_path / "out.parquet", level="last", normalize=True)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["path", "label", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    about = json.loads(table.schema.metadata[b"hjepa.embeddings"])
    assert (about["level"], about["pool"], about["normalisation"]) == (1, "mean", "l2")
    assert about["preprocess"]["mean"] == pytest.approx(load_run(run_dir).mean)
    assert len(about["model"]["digest"]) == 32
    assert all((photos / path).is_file() for path in table["path"].to_pylist())
    lengths = np.linalg.norm(np.stack(table["embedding"].to_pylist()), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_numpy_has_the_same_content_with_a_list_beside_it(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    embed(run_dir, photos, tmp_path / "out.parquet")
    embed(run_dir, photos, tmp_path / "out.npy")
    paths, labels, features = read(tmp_path / "out.parquet")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), features.numpy())
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == paths
    assert [row["label"] for row in rows] == labels
    assert json.loads((tmp_path / "out.json").read_text())["dimensions"] == features.shape[1]


def test_unlabelled_images_have_no_column_of_labels(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    embed(run_dir, photos / "cats", tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").names == ["path", "embedding"]


def test_levels_and_pooling(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    found = {}
    for name, options in {"all": {}, "0": {"level": 0}, "1": {"level": "1"}, "max": {"pool": "max"}}.items():
        embed(run_dir, photos, tmp_path / f"{name}.npy", **options)  # type: ignore[arg-type]
        found[name] = read(tmp_path / f"{name}.npy")[2]
    torch.testing.assert_close(found["all"], torch.cat([found["0"], found["1"]], dim=1))
    assert bool((found["max"] >= found["all"] - 1e-6).all())
    assert not torch.allclose(found["max"], found["all"])


def sources(tmp_path: Path) -> dict[str, tuple[str, int]]:
    """One source of each kind, and its number of images."""
    write_shards(tmp_path / "shards", [3, 4])
    rows = [{"image": {"bytes": encode(noise(n)), "path": None}, "label": n % 2} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "images.parquet", row_group_size=2)
    for split, count in (("train", 4), ("val", 3), ("test", 2)):
        (tmp_path / "splits" / split / "a").mkdir(parents=True)
        for n in range(count):
            Image.fromarray(noise(n)).save(tmp_path / "splits" / split / "a" / f"{n}.png")
    deep = tmp_path / "deep" / "archive" / "pictures"
    deep.mkdir(parents=True)
    for n in range(3):
        Image.fromarray(noise(n)).save(deep / f"{n}.png")
    return {
        "digits": ("digits", 1797),
        "shards": (str(tmp_path / "shards"), 7),
        "one shard": (str(tmp_path / "shards" / "shard-0000.tar"), 3),
        "pattern": (str(tmp_path / "shards" / "shard-{0000..0001}.tar"), 7),
        "parquet": (str(tmp_path / "images.parquet"), 6),
        "folder with splits": (str(tmp_path / "splits"), 9),
        "folder in a folder": (str(tmp_path / "deep"), 3),
    }


def test_any_source_is_embedded_whole(run_dir: Path, tmp_path: Path) -> None:
    for name, (data, count) in sources(tmp_path).items():
        about = embed(run_dir, data, tmp_path / "out.parquet", level=0, force=True)
        paths, _, features = read(tmp_path / "out.parquet")
        assert about["count"] == len(set(paths)) == len(features) == count, name
        if name.startswith("folder"):
            assert all((Path(data) / path).is_file() for path in paths), name


def test_parquet_images_are_read_a_row_group_at_a_time_and_are_the_same(run_dir: Path, tmp_path: Path) -> None:
    rows = [{"image": encode(noise(n, 16, 16))} for n in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "images.parquet", row_group_size=3)
    # Not in memory, so that every image is read from the file.
    embed(run_dir, tmp_path / "images.parquet", tmp_path / "out.npy", overrides=["data.storage=workers"])
    images = torch.stack([torch.from_numpy(noise(n, 16, 16).copy()) for n in range(10)]).permute(0, 3, 1, 2)
    torch.testing.assert_close(read(tmp_path / "out.npy")[2], hjepa.load_pretrained(run_dir).embed(images))


def test_unreadable_images_are_left_out_and_counted(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "cats" / "broken.png").write_bytes(b"no image")
    for storage in ("device", "workers"):
        about = embed(
            run_dir,
            photos,
            tmp_path / "out.parquet",
            overrides=[f"data.storage={storage}"],
            force=True,
            rows_per_part=5,
        )
        paths, _, _ = read(tmp_path / "out.parquet")
        assert len(paths) == 24
        assert "cats/broken.png" not in paths
        assert (about["count"], about["left_out"]) == (24, 1)


# Images of a command that is stopped.
COUNT = 300


def stop_after(part: Path) -> threading.Thread:
    """A thread that interrupts the program, as Ctrl-C does, once a part is written."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not part.is_file() and time.monotonic() < end:
            time.sleep(0.001)
        _thread.interrupt_main()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_stopped_command_continues(
    run_dir: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    # One image a part and a forward pass, and many images, so that most of the work remains after the first.
    for number in range(24, COUNT):
        shutil.copy(photos / "dogs" / "000.png", photos / "dogs" / f"{number:03d}.png")
    options: dict[str, Any] = {"rows_per_part": 1, "batch_size": 1}
    stop_after(tmp_path / "out.parquet.parts" / "part-000002.parquet")
    with pytest.raises(KeyboardInterrupt):
        embed(run_dir, photos, output, **options)
    done = sorted((tmp_path / "out.parquet.parts").glob("part-*.parquet"))
    assert 3 <= len(done) < COUNT
    assert not output.exists()
    with caplog.at_level(logging.INFO, logger="hjepa"):
        embed(run_dir, photos, output, **options)
    assert f"continuing: {len(done)} of {COUNT} images are done" in caplog.text
    assert not (tmp_path / "out.parquet.parts").exists()
    embed(run_dir, photos, whole, **options)
    assert pq.read_table(output).equals(pq.read_table(whole))


@pytest.fixture
def begun(run_dir: Path, photos: Path, tmp_path: Path) -> Path:
    """An output of which two parts of five images are done, and then an image stops it."""
    broken = photos / "zebras" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    options = ["data.bad_images=stop", "data.storage=workers"]
    with pytest.raises(DataError, match=r"broken\.png"):
        embed(run_dir, photos, tmp_path / "out.parquet", overrides=options, rows_per_part=5)
    assert len(list((tmp_path / "out.parquet.parts").glob("part-*.parquet"))) == 4
    return tmp_path / "out.parquet"


def test_parts_of_other_images_or_settings_are_refused(
    run_dir: Path, photos: Path, begun: Path, tmp_path: Path
) -> None:
    same: dict[str, Any] = {"rows_per_part": 5, "overrides": ["data.storage=workers"]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"level": 0}, "another --level"),
        ({"rows_per_part": 6}, "parts of another size"),
    ]
    for changes, what in cases:
        with pytest.raises(UserError, match=what) as caught:
            embed(run_dir, photos, begun, **{**same, **changes})
        assert "--force" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match="another model"):
        embed("hjepa-tiny-cifar10", photos, begun, **same)
    (photos / "dogs" / "000.png").write_bytes(encode(noise(99, 20, 18)))
    with pytest.raises(UserError, match="other images"):
        embed(run_dir, photos, begun, **same)
    about = embed(run_dir, photos, begun, force=True, **same)
    assert about["count"] == 24


def test_an_existing_output_is_kept(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("out.parquet", "out.csv"):
        (tmp_path / name).write_text("mine")
    for name in ("out.parquet", "out.npy"):
        with pytest.raises(UserError, match="--force"):
            embed(run_dir, photos, tmp_path / name)
    assert (tmp_path / "out.parquet").read_text() == (tmp_path / "out.csv").read_text() == "mine"


def test_a_diverged_model_is_refused(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    run = load_run(run_dir, device="cpu")
    from hjepa.embeddings.embed import describe, write_embeddings
    from hjepa.embeddings.encoding import choose_encoding
    from hjepa.embeddings.images import find_images

    with torch.no_grad():
        next(iter(run.encoder.parameters())).fill_(float("nan"))
    images = find_images(run.config, run.channels, photos)
    about = describe(run, run_dir, choose_encoding(run.encoder, "all", "mean", False), images)
    with pytest.raises(DivergenceError, match="diverged"):
        write_embeddings(run, images, about, tmp_path / "out.npy")


@pytest.mark.skipif(sys.platform == "win32", reason="sizes of files cannot be limited")
@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_full_disk_is_one_line_and_finished_parts_are_kept(
    run_dir: Path, photos: Path, tmp_path: Path, name: str
) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    output = tmp_path / name
    try:
        # No file can grow beyond this: a part of four images still fits, the joined file of 24 does not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        with pytest.raises(UserError, match=r"--output: .* cannot be written \(File too large\); make room") as raised:
            embed(run_dir, photos, output, rows_per_part=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(raised.value)
    assert not output.exists()
    done = len(list(output.with_name(f"{name}.parts").glob("part-*.parquet")))
    assert done == 6
    assert embed(run_dir, photos, output, rows_per_part=4)["count"] == 24
