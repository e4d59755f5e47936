"""The interactive map of the embedding."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import torch
from PIL import Image

from hjepa.runs.load import load_run
from hjepa.visualization.figures.embedding import Layout
from hjepa.visualization.figures.style import DARK, LIGHT
from hjepa.visualization.material import Material
from hjepa.visualization.report.build import templates
from hjepa.visualization.report.hover import EXTENT, HoverMap, contact_sheet, hover_map


def test_every_image_has_its_tile_point_class_and_name(labelled_run) -> None:
    run = load_run(labelled_run, device="cpu")
    material = Material(run, labelled_run, run.config)
    gallery, images = material.gallery, material.images
    found = hover_map(images, gallery, material.layouts)
    assert found is not None
    data = json.loads(json.dumps(found.data))
    count = len(gallery)
    assert [len(data[key]) for key in ("group", "classes", "names")] == [count] * 3
    assert [layout["name"].split(",")[0] for layout in data["layouts"]] == ["trained", "untrained", "trained"]
    for layout in data["layouts"]:
        points = np.array(layout["points"])
        assert points.shape == (count, 2)
        assert points.min() >= 0
        assert points.max() <= EXTENT
        assert np.ptp(points, axis=0).max() == EXTENT
    for i in (0, count - 1):
        assert data["groups"][data["group"][i]]["name"] == data["classes"][i]
    # The sheet shows every thumbnail where the script looks for it.
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.sheet.partition(",")[2]))).convert("RGB")).astype(
        int
    )
    assert [sheet.shape[1], sheet.shape[0]] == data["sheet"]
    (width, height), columns = data["tile"], data["columns"]
    for i in (0, 7, count - 1):
        top, left = i // columns * height, i % columns * width
        tile = gallery.thumbnails[i].numpy().astype(int)
        assert abs(sheet[top : top + height, left : left + width] - tile).mean() < 12


def test_a_sheet_has_rows_of_forty() -> None:
    tiles = np.arange(45, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), dtype=np.uint8)
    sheet = contact_sheet(tiles)
    assert sheet.shape == (4, 120, 3)
    assert sheet[0, ::3, 0].tolist() == list(range(40))
    assert sheet[2, ::3, 0].tolist() == [40, 41, 42, 43, 44] + [0] * 35


def test_without_thumbnails_or_layouts_there_is_no_map(labelled_run) -> None:
    run = load_run(labelled_run, device="cpu")
    material = Material(run, labelled_run, run.config)
    assert hover_map(material.images, material.gallery, []) is None


def test_data_cannot_leave_its_element() -> None:
    hostile = "</script><script>alert(1)</script><!-- & '"
    page = templates().from_string("{{ data | tojson }}").render(data=HoverMap("", {"names": [hostile]}).data)
    assert "<" not in page
    assert json.loads(page) == {"names": [hostile]}


def test_colours_of_classes_are_those_of_the_figures() -> None:
    css = templates().loader.get_source(templates(), "report.css")[0]  # type: ignore[union-attr]
    blocks = re.findall(r"--class0: .*?}", css, flags=re.DOTALL)
    for theme, block in zip((LIGHT, DARK), blocks, strict=True):
        found = dict(re.findall(r"--class(\d): (#[0-9a-f]{6})", block))
        assert found == {str(i): colour for i, colour in enumerate(theme.classes)}
        assert re.search(rf"--other: {theme.other};", block)


def test_equal_points_do_not_break_the_map(labelled_run) -> None:
    run = load_run(labelled_run, device="cpu")
    material = Material(run, labelled_run, run.config)
    layout = Layout("flat", torch.zeros(len(material.gallery), 2).numpy())
    found = hover_map(material.images, material.gallery, [layout])
    assert found is not None
    assert {tuple(point) for point in found.data["layouts"][0]["points"]} == {(500, 500)}
