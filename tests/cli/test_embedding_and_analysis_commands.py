"""`hjepa embed`, `similar`, `duplicates`, `analyze`, `compare` and `watch` as a user sees them."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.test_program import ENVIRONMENT, TINY, hjepa
from tests.data.image_files import noise

from hjepa.config import dump_config, load_config

MODEL = "hjepa-tiny-cifar10"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with images, a run folder without records, an existing output and files that are no images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        Image.fromarray(noise(number)).save(photos / f"{number}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no images")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "there.parquet").write_text("mine")
    (tmp_path / "there.json").write_text("mine")
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(dump_config(load_config(TINY)))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("embed", MODEL, "photos"), "--output: missing"),
        (("embed", MODEL, "photos", "--output", "there.parquet"), "--force"),
        (("embed", MODEL, "photos", "--output", "out.csv"), ".parquet or .npy"),
        (("embed", MODEL, "photos", "--output", "photos"), "suffix"),
        (("embed", "hjepa-tiny-cifar", "photos", "--output", "out.npy"), "did you mean hjepa-tiny-cifar10?"),
        (("embed", "nowhere/run", "photos", "--output", "out.npy"), "nowhere/run"),
        (("embed", MODEL, "nowhere", "--output", "out.npy"), "no such folder"),
        (("embed", MODEL, "cifar11", "--output", "out.npy"), "did you mean cifar10"),
        (("embed", MODEL, "empty", "--output", "out.npy"), "no images"),
        (("embed", MODEL, "photos/0.png", "--output", "out.npy"), "single image"),
        (("embed", MODEL, "there.json", "--output", "out.npy"), "there.json"),
        (("embed", MODEL, "photos", "--output", "out.npy", "--level", "7"), "--level"),
        (("embed", MODEL, "photos", "--output", "out.npy", "--level", "top"), "--level"),
        (("embed", MODEL, "photos", "--output", "out.npy", "--pool", "median"), "--pool"),
        (("embed", MODEL, "photos", "--output", "out.npy", "--device", "tpu"), "device"),
        (("embed", MODEL, "photos", "training.lr=1", "--output", "out.npy"), "training.lr"),
        (("similar", MODEL, "photos/0.png"), "--in: missing"),
        (("similar", MODEL, "nowhere.png", "--in", "photos"), "nowhere.png"),
        (("similar", MODEL, "photos", "--in", "photos"), "folder"),
        (("similar", MODEL, "broken.png", "--in", "photos"), "broken.png"),
        (("similar", MODEL, "photos/0.png", "--in", "photos", "-k", "0"), "-k"),
        (("similar", MODEL, "photos/0.png", "--in", "photos", "--output", "there.json"), "--force"),
        (("similar", MODEL, "photos/0.png", "--in", "photos", "--output", "x.txt"), ".json or .csv or .png"),
        (("duplicates", MODEL, "nowhere"), "nowhere"),
        (("duplicates", MODEL, "photos", "--threshold", "2"), "--threshold"),
        (("duplicates", MODEL, "photos", "--output", "there.json"), "--force"),
        (("analyze", "nowhere"), "nowhere"),
        (("analyze", "photos"), "config.yaml"),
        (("analyze", MODEL), "no training records"),
        (("analyze", "run", "--output", "notes.txt"), "notes.txt"),
        (("compare", "run"), "two or more"),
        (("compare", "run", "run"), "more than once"),
        (("compare", "run", "other", "--output", "there.json"), "--force"),
        (("compare", "run", "other", "--output", "x.pdf"), ".html or .json"),
        (("watch", "nowhere"), "nowhere"),
        (("watch", "run", "--interval", "0"), "--interval"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str, place: Path) -> None:
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    result = hjepa(*arguments, cwd=place)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("hjepa: ")
    assert words in lines[0]
    after = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    assert after == before, "nothing is overwritten, and nothing left behind"


def test_embed_similar_and_duplicates_print_their_results(place: Path) -> None:
    result = hjepa("embed", MODEL, "photos", "--output", "out.parquet", "--level", "last", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "out.parquet: 4 images, 192 dimensions\n"
    result = hjepa("similar", MODEL, "photos/2.png", "--in", "out.parquet", "-k", "2", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "photos/2.png"
    rank, cosine, label, path = result.stdout.splitlines()[2].split()
    # The set is in memory and resized in float32, the picture is a file and resized in 8 bits.
    assert (rank, label, path) == ("1", "-", "2.png")
    assert float(cosine) > 0.99
    result = hjepa("duplicates", MODEL, "out.parquet", "--output", "d.csv", cwd=place)
    assert result.returncode == 0, result.stderr
    assert "outliers" in result.stdout
    assert (place / "d.csv").is_file()


def test_analyze_and_compare_print_their_results(place: Path) -> None:
    result = hjepa("analyze", "run", "--output", "out", cwd=place)
    assert result.returncode == 0, result.stderr
    assert "No records" in result.stdout
    assert "hjepa train --output-dir run --resume auto" in result.stdout
    result = hjepa("compare", "run", "other", "--output", "page.html", cwd=place)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("differing keys: none")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_watch_ends_cleanly_on_ctrl_c(place: Path) -> None:
    import os
    import pty

    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "hjepa", "watch", "run", "--interval", "0.1"]
    process = subprocess.Popen(
        command, cwd=place, stdout=terminal, stderr=subprocess.PIPE, env={**ENVIRONMENT, "TERM": "xterm"}
    )
    os.close(terminal)
    shown = b""
    end = time.monotonic() + 120
    while b"no records yet" not in shown and time.monotonic() < end:
        shown += os.read(main, 4096)
    process.send_signal(signal.SIGINT)
    # What it still prints is read, since a full terminal would block it. Linux reports the end as an error.
    with contextlib.suppress(OSError):
        while select.select([main], [], [], 60)[0] and os.read(main, 4096) and time.monotonic() < end:
            pass
    _, errors = process.communicate(timeout=60)
    os.close(main)
    assert process.returncode == 0
    assert not errors


def test_a_missing_argument_is_named() -> None:
    for verb in ("embed", "similar", "duplicates", "analyze", "compare", "watch"):
        result = hjepa(verb)
        assert result.returncode == 2
        assert "Missing argument" in result.stderr
