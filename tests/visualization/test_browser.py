"""The report in a real browser, at phone and desk width, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.visualization.devtools import NAMES, Chromium, find_chromium

from hjepa.visualization import visualize

SIZES = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip(
            f"no Chromium ({', '.join(NAMES)}), so the report was not opened in a browser; Debian package: chromium"
        )
    found = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def report(labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    return visualize(labelled_run, output_dir=folder, generate_report=True, quick=True, device="cpu")[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_report_opens_without_errors_requests_or_horizontal_scrolling(
    browser: Chromium, report: Path, size: str, scheme: str
) -> None:
    width, height = SIZES[size]
    browser.problems.clear()
    browser.requests.clear()
    browser.show(report, width=width, height=height, scheme=scheme)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # The background follows the scheme: bright or dark.
    red = browser.value("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert red > 200 if scheme == "light" else red < 60
    # Everything below a heading that the navigation names.
    assert browser.value("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    assert browser.problems == []
    assert browser.requests == []


def _place(browser: Chromium, index: int) -> tuple[float, float]:
    """Where a point of the map is in the window."""
    box = browser.value(
        "(() => { const map = document.getElementById('map'); map.scrollIntoView({behavior: 'instant', block: 'start'});"
        f" const b = map.querySelectorAll('.plot circle')[{index}].getBoundingClientRect();"
        " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    return box[0], box[1]


def test_pointing_at_the_map_shows_the_image_and_its_class(browser: Chromium, report: Path) -> None:
    browser.problems.clear()
    browser.show(report, width=1280, height=1200, scheme="light")
    card = "document.querySelector('.card')"
    assert browser.value(f"{card}.hidden")
    names = browser.value("JSON.parse(document.getElementById('map-data').textContent).names")
    assert browser.value("document.querySelectorAll('.plot circle:not(.ring)').length") == len(names)
    browser.point(*_place(browser, 3))
    assert not browser.value(f"{card}.hidden")
    # Points may lie on top of one another, so the name is that of a point at this place.
    assert browser.value(f"{card}.querySelector('.name').textContent") in names
    assert browser.value(f"{card}.querySelector('.class').textContent") != ""
    area = browser.value(f"{card}.querySelector('.thumbnail').getBoundingClientRect().width")
    assert area > 40
    inside = f"(() => {{ const c = {card}.getBoundingClientRect(); return c.left >= 0 && c.right <= innerWidth; }})()"
    assert browser.value(inside)
    browser.point(2, 2)
    assert browser.value(f"{card}.hidden")
    assert browser.problems == []


def test_layouts_classes_and_arrow_keys_work(browser: Chromium, report: Path) -> None:
    browser.problems.clear()
    browser.show(report, width=1280, height=1200, scheme="dark")
    first = browser.value("document.querySelector('.plot circle').getAttribute('cx')")
    browser.value("document.querySelectorAll('.layouts button')[1].click()")
    assert browser.value("document.querySelector('.plot circle').getAttribute('cx')") != first
    browser.value("document.querySelector('.groups button').click()")
    faint = browser.value("document.querySelectorAll('.plot circle.faint').length")
    assert 0 < faint < browser.value("document.querySelectorAll('.plot circle:not(.ring)').length")
    browser.value("document.querySelector('.groups button').click()")
    assert browser.value("document.querySelectorAll('.plot circle.faint').length") == 0
    browser.value("document.querySelector('.plot svg').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert not browser.value("document.querySelector('.card').hidden")
    assert browser.problems == []


def test_touching_the_map_of_a_phone_shows_the_image(browser: Chromium, report: Path) -> None:
    browser.problems.clear()
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.show(report, width=390, height=844, scheme="light")
    browser.touch(*_place(browser, 5))
    assert not browser.value("document.querySelector('.card').hidden")
    assert browser.value("document.documentElement.scrollWidth") <= 390
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert browser.problems == []
