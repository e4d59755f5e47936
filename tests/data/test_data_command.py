"""The command `hjepa data`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.image_files import encode, noise
from typer.testing import CliRunner

from hjepa.cli.data import app
from hjepa.errors import UserError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_every_data_set() -> None:
    lines = run("list").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "shapes", "digits", "cifar10", "cifar100", "stl10", "imagenet100", "imagenet", "folder", "parquet",
        "webdataset",
    ]  # fmt: skip


def test_check_reports_bad_files_and_duplicates(mixed_folder: Path) -> None:
    for index in range(40):  # enough copies that both splits get some
        (mixed_folder / f"twin{index}.png").write_bytes(encode(noise(1, channels=1)))
    output = run("check", "--dataset", "folder", "--data-path", mixed_folder)
    assert "bad files: 2\n" in output
    assert "  notes.jpg: not an image\n" in output
    assert "  cut.jpg: truncated" in output
    assert "in both train and test: 0" not in output
    assert "uint16" in output


def test_check_stops_at_bad_images_if_configured(mixed_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.bad_images=stop: 2 files cannot be read"):
        run("check", "--dataset", "folder", "--data-path", mixed_folder, "data.bad_images=stop")


def test_preview_shows_images_beside_crops(class_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "sheet.png"
    arguments = ["preview", "--dataset", "folder", "--data-path", class_folder, "--output", output]
    keys = ["data.image_size=32", "model.encoder_type=vit_tiny_patch8_32"]
    said = run(*arguments, "--rows", 3, "--crops", 4, *keys)
    assert said == f"{output}: 3 images, each followed by 4 crops\n"
    sheet = np.asarray(Image.open(output))
    assert sheet.shape == (3 * 68, 5 * 68, 3)
    assert sheet.std() > 10
    run(*arguments, "--rows", 2, "--crops", 1, *keys, "data.channels=1")


def test_preview_reports_mistakes_before_reading_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not end in .png"):
        run("preview", "--output", tmp_path / "sheet.jpg")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be created"):
        run("preview", "--output", tmp_path / "file" / "sheet.png")
    with pytest.raises(UserError, match=r"data.colour: unknown key"):
        run("check", "data.colour=1")
