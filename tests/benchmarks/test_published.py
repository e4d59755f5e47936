"""The tables on the published pages match the files under docs/results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from benchmarks.published import hierarchy, selection
from benchmarks.published.log import Log
from benchmarks.published.readings import FOUR_DEPTHS, RESULTS, ROOT, Published, as_of_today
from benchmarks.published.text import change, points
from benchmarks.published.work import compared, flop_per_image
from PIL import Image

from benchmarks import figure, tables
from hjepa.config import all_keys, load_config
from hjepa.config.evidence import EVIDENCE

PAGES = {str(page.relative_to(ROOT)): page for page in tables.pages()}
# An accuracy in per cent with one decimal, as in the tables.
ACCURACY = re.compile(r"(?<![\d.])\d\d\.\d(?![\d.])(?! images/s)")


@pytest.fixture(scope="module")
def published() -> Published:
    return Published()


@pytest.fixture
def copy(tmp_path: Path) -> Published:
    """A copy of the result files that a test may change."""
    shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("*.png", "metrics.jsonl"))
    return Published(tmp_path / "results")


@pytest.mark.parametrize("name", PAGES)
def test_pages_match_their_files(name: str, published: Published) -> None:
    page = PAGES[name].read_text(encoding="utf-8")
    assert tables.filled(page, published) == page, "run `python -m benchmarks.tables`"


@pytest.mark.parametrize("name", PAGES)
def test_no_accuracy_is_written_outside_a_table(name: str) -> None:
    prose = tables.unmarked(PAGES[name].read_text(encoding="utf-8"))
    assert not ACCURACY.findall(re.sub(r"```.*?```", "", prose, flags=re.S))


def test_every_table_is_on_a_page() -> None:
    used = [name for page in PAGES.values() for name in tables.names(page.read_text(encoding="utf-8"))]
    assert set(used) == set(tables.TABLES)
    marks = [
        re.findall(r"<!-- (?:table:|end of) (\w+) -->", page.read_text(encoding="utf-8")) for page in PAGES.values()
    ]
    assert sorted(mark for found in marks for mark in found) == sorted(used * 2)


def test_a_number_edited_by_hand_is_detected(published: Published) -> None:
    page = PAGES["README.md"].read_text(encoding="utf-8")
    linear = points(published.run("cifar10_cpu/width_192").linear)
    assert linear in page
    edited = page.replace(linear, "99.9")
    assert tables.filled(edited, published) == page


def test_a_changed_file_changes_every_page_that_shows_it(copy: Published) -> None:
    file = copy.root / "cifar10_cpu/width_192/results.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    tree["linear_probe"]["trained"] = 0.123
    file.write_text(json.dumps(tree), encoding="utf-8")
    shown = {name for name, page in PAGES.items() if "12.3" in tables.filled(page.read_text(encoding="utf-8"), copy)}
    assert {
        "README.md",
        "docs/presets.md",
        "docs/models.md",
        "docs/results/cifar10.md",
        "docs/results/recipe.md",
    } <= shown


def test_the_figure_matches_the_files(published: Published) -> None:
    with Image.open(figure.PICTURE) as picture:
        assert picture.info[figure.KEY] == figure.digest(figure.numbers(published)), "run `python -m benchmarks.figure`"
    assert figure.PICTURE.stat().st_size < 200_000


def test_the_figure_can_be_drawn(published: Published, tmp_path: Path) -> None:
    figure.main(["--output", str(tmp_path / "levels.png")])
    with Image.open(tmp_path / "levels.png") as picture:
        assert picture.info[figure.KEY] == figure.digest(figure.numbers(published))


def test_evidence_in_the_configuration_reference_refers_to_rows_of_the_log(published: Published) -> None:
    rows = Log(published).rows
    for finding in EVIDENCE:
        assert finding.key.split("[")[0] in all_keys()
        assert set(finding.rows) <= set(rows), finding.key


def test_rows_of_the_log_name_one_source_and_compare_with_existing_rows(published: Published) -> None:
    log = Log(published)
    assert len(log.rows) == sum(len(section["rows"]) for section in log.sections), "a number occurs twice"
    for number, row in log.rows.items():
        assert sum(key in row for key in ("study", "run", "results", "copied")) == 1, number
        assert row.get("against", number) in log.rows, number
        # Figures are copied only if the code of the experiment is gone; other experiments have a file to repeat them.
        assert "gone" in row or "copied" not in row, number


def test_text_about_flop_follows_from_the_numbers() -> None:
    assert compared(104.5, 100) == "4.5 % more FLOP"
    assert compared(98, 100) == "2.0 % fewer FLOP"
    assert compared(100, 100.01) == "as many FLOP"
    assert change(-0.04) == change(0.04) == "0.0"


def test_flop_per_image_follow_the_configuration() -> None:
    config = load_config("quickstart")
    wider = load_config("quickstart", {"model.predictor.embed_dim": 256})
    assert flop_per_image(wider) > flop_per_image(config)


def test_configurations_with_removed_options_are_not_converted() -> None:
    tree = load_config("quickstart").model_dump(mode="json")
    assert as_of_today(tree) == load_config("quickstart")
    tree["model"]["local_mixing"] = "none"
    assert as_of_today(tree) == load_config("quickstart")
    tree["model"]["local_mixing"] = "all"
    assert as_of_today(tree) is None


def test_a_run_is_read_at_its_levels_or_at_the_given_depths(published: Published) -> None:
    flat = "cifar10_cpu/width_192/flat"
    assert published.run(flat, FOUR_DEPTHS).linear > published.run(flat).linear == published.run(flat).last
    with pytest.raises(ValueError, match="not at"):
        published.run(flat, (1, 3))


def test_missing_measurements_are_stated_and_shown_once_they_exist(copy: Published) -> None:
    (copy.root / selection.FILE).unlink(missing_ok=True)
    shutil.rmtree(copy.root / hierarchy.EQUAL_WORK, ignore_errors=True)
    assert "not been estimated" in selection.bias(copy)
    assert "Not measured yet" in hierarchy.equal_work(copy)
    noise = {"seed_points": 0.5, "test_images_points": 0.7, "expected_points": 1.9, "bound_points": 2.4}
    found = {
        "cases": {"a row": {"compared": 60, **noise}},
        "seed_deviation": 0.005,
        "chosen": 0.6,
        "chosen_other_seed": 0.7,
    }
    (copy.root / selection.FILE).write_text(json.dumps(found), encoding="utf-8")
    assert "| a row | 60 | 0.5 | 0.7 | 1.9 | 2.4 |" in selection.bias(copy)
    (copy.root / hierarchy.EQUAL_WORK).mkdir()
    shutil.copy(copy.root / "recipe/hierarchy_fair.json", copy.root / hierarchy.EQUAL_WORK / "results.json")
    shown = hierarchy.equal_work(copy)
    assert "| three levels ([data](hierarchy_equal_work/results.json)) | 5 |" in shown
    assert hierarchy.paired(copy).splitlines()[-1].split("|")[3:9] == shown.splitlines()[-1].split("|")[3:9]


def test_the_check_lists_pages_that_differ(
    copy: Published, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = copy.root / "page.md"
    page.write_text("<!-- table: stress -->\nby hand\n<!-- end of stress -->\n", encoding="utf-8")
    monkeypatch.setattr(tables, "pages", lambda: [page])
    monkeypatch.setattr(tables, "ROOT", copy.root)
    with pytest.raises(SystemExit, match="1"):
        tables.main(["--check"])
    assert "page.md: differs from its files" in capsys.readouterr().out
    tables.main([])
    assert "by hand" not in page.read_text(encoding="utf-8")
    tables.main(["--check"])
