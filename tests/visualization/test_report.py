"""Reports of real runs."""

import base64
import html
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tests.health.conftest import TINY
from tests.health.synthetic_records import make_results, train_record

from hjepa.config import load_config, resolve
from hjepa.errors import CheckpointError, UserError
from hjepa.health.evidence import Evidence
from hjepa.health.finding import Finding
from hjepa.health.verdict import judge
from hjepa.runs.records import Records
from hjepa.visualization import visualize
from hjepa.visualization.catalogue import KINDS
from hjepa.visualization.figures.figure import Figure, Omitted
from hjepa.visualization.figures.style import DARK, LIGHT, new_figure, to_png
from hjepa.visualization.report.build import Report, prose
from hjepa.visualization.report.pictures import DrawnFigure, data_uri
from hjepa.visualization.report.tables import controls_table, levels_table

NAMES = [kind.name for kind in KINDS if kind.name != "umap"]
FIGURES = [f"{name}.png" for name in NAMES]
QUICK = [f"{kind.name}.png" for kind in KINDS if not kind.slow]
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser would fetch or a screen reader would need."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.add(tag)
        self.references += [v for k, v in attrs if k in ("src", "srcset", "href", "data", "action")]
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words(text: str) -> str:
    body = re.sub(r"<(style|script)\b.*?</\1>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


@pytest.fixture(scope="module")
def labelled(labelled_run, tmp_path_factory):
    """Figures and report of the labelled run, in a folder of their own."""
    folder = tmp_path_factory.mktemp("report")
    return visualize(labelled_run, figures=NAMES, output_dir=folder, generate_report=True, device="cpu")


def test_files_written(labelled):
    assert [path.name for path in labelled] == [*FIGURES, "report.html"]
    for path in labelled[:-1]:
        with Image.open(path) as figure:
            assert figure.format == "PNG"
            assert np.ptp(np.asarray(figure.convert("L"))) > 100


def test_report_is_self_contained_and_small(labelled):
    text = labelled[-1].read_text(encoding="utf-8")
    assert len(text.encode()) < 8e6
    page = Page(text)
    # The script of the map is inside the page too.
    assert not re.search(r"<script[^>]* src=", text)
    assert "link" not in page.tags
    for reference in page.references:
        inside = reference.startswith(("data:image/", "#"))
        assert inside or re.fullmatch(r"https://arxiv\.org/abs/[\d.]+", reference), reference[:80]
    assert not re.search(r"url\((?!data:image/)|@import|https?://(?!arxiv\.org/abs/|www\.w3\.org/2000/svg)", text)
    for link in (r for r in page.references if r.startswith("#")):
        assert link[1:] in page.ids
    assert len(page.images) == len(FIGURES)
    assert all(len(image["alt"]) > 30 for image in page.images)


def test_report_contains_the_numbers(labelled, labelled_run):
    text = words(labelled[-1].read_text(encoding="utf-8"))
    results = json.loads((labelled_run / "results.json").read_text(encoding="utf-8"))
    for reading in ("linear_probe", "knn"):
        for who in ("trained", "untrained", "pixels", "pca"):
            assert f"{100 * results[reading][who]:.1f}" in text
        for level in results[reading]["levels"]:
            assert f"{100 * level['trained']:.1f}" in text
    for level in results["rank"]["levels"]:
        assert f"{level['trained']:.1f}" in text
    assert results["protocol"].partition("`")[0] in text
    # What is judged are the validation figures, what the tables show is test.
    validation = results["validation"]
    judged = f"{100 * validation['linear_probe']['trained']:.1f}% of {validation['images']} validation images"
    assert judged in text
    assert "accuracy on test images" in text


def test_report_describes_the_run(labelled, labelled_run):
    raw = labelled[-1].read_text(encoding="utf-8")
    text = words(raw)
    assert "tiny & quick" in text
    assert "<h1>tiny &amp; quick</h1>" in raw
    assert "step 8 of 8" in text
    assert "width 16, 2 blocks" in text
    assert "tokens seen" in text
    for heading in ("Numbers", "Training curves", "Masks", "Feature maps", "Nearest neighbours", "For the next run"):
        assert heading in text
    settings = html.unescape(re.search(r"<pre><code>(.*?)</code></pre>", raw, flags=re.DOTALL)[1])
    import yaml

    assert load_config(yaml.safe_load(settings)) == load_config(labelled_run / "config.yaml")


def test_without_a_report_only_figures(labelled_run, tmp_path):
    paths = visualize(
        labelled_run / "checkpoints" / "last.pth", output_dir=tmp_path / "a" / "b", quick=True, device="cpu"
    )
    assert [p.name for p in paths] == QUICK
    assert not (tmp_path / "a" / "b" / "report.html").exists()


def test_one_level_without_labels_stopped_early(unlabelled_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unlabelled_run, folder)
    paths = visualize(folder, quick=True, generate_report=True, device="cpu")
    assert paths[0] == folder / "figures" / "curves.png"
    assert paths[-1] == folder / "report.html"
    text = words(paths[-1].read_text(encoding="utf-8"))
    assert f"hjepa evaluate --checkpoint {folder}" in text
    assert "because it was not evaluated" in text
    assert "flat (one level)" in text
    assert f"hjepa train --output-dir {folder} --resume auto" in text
    assert "no labels" in text
    assert "t-SNE is omitted" in text
    # The short report names what the whole one adds.
    assert "Decoded features" in text
    assert f"hjepa visualize {folder} --generate-report" in text
    # The run folder itself as output folder means the same places.
    assert visualize(folder, output_dir=folder, quick=True, device="cpu") == paths[:-1]


def test_an_evaluation_without_labels(unlabelled_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(unlabelled_run, folder)
    skipped = {"skipped": "no labels"}
    rank = {"trained": 3.0, "untrained": 3.2, "levels": [{"level": 0, "trained": 3.0, "untrained": 3.2}]}
    results = {"linear_probe": skipped, "knn": skipped, "rank": rank, "cka": [[1.0]], "chance": None, "step": 2}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    text = words(visualize(folder, quick=True, generate_report=True, device="cpu")[-1].read_text(encoding="utf-8"))
    assert "Linear probe and k-NN were skipped: no labels" in text
    assert "because there are no labels" in text


def test_pooled_levels(pooled_run, tmp_path):
    paths = visualize(pooled_run, output_dir=tmp_path, quick=True, generate_report=True, device="cpu")
    text = words(paths[-1].read_text(encoding="utf-8"))
    Page(paths[-1].read_text(encoding="utf-8"))
    assert "3 levels \N{MIDDLE DOT} 1 epoch " in text
    assert "Muon (AdamW for the rest), learning rate" in text
    assert "pooled 4\N{MULTIPLICATION SIGN}4" in text
    assert "hierarchical blocks" in text
    assert [p.name for p in paths[:-1]] == QUICK


def test_every_level_has_its_colour(deep_run, tmp_path):
    paths = visualize(deep_run, output_dir=tmp_path, quick=True, generate_report=True, device="cpu")
    assert [p.name for p in paths[:-1]] == QUICK
    page = paths[-1].read_text(encoding="utf-8")
    for theme, variables in zip((LIGHT, DARK), re.findall(r"--level0: .*?}", page, flags=re.DOTALL), strict=True):
        colours = re.findall(r"--level(\d): (#[0-9a-f]{6})", variables)
        assert dict(colours) == {str(level): colour for level, colour in enumerate(theme.levels)}
        assert len(set(theme.levels)) == 8
    keys = set(re.findall(r'class="key level(\d)"', page))
    assert keys == set(map(str, range(8)))
    assert all(f".level{level} {{ background" in page for level in keys)


def test_a_run_folder_without_records(unlabelled_run, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(unlabelled_run, folder)
    for name in ("metrics.jsonl", "environment.json"):
        (folder / name).unlink()
    paths = visualize(folder, quick=True, generate_report=True, device="cpu")
    assert [p.name for p in paths] == [*QUICK[2:], "report.html"]
    assert "omitted figure curves" in caplog.text
    text = words(paths[-1].read_text(encoding="utf-8"))
    assert "has no training records" in text
    assert "not recorded" in text


def test_images_at_a_new_path(unlabelled_run, pictures, tmp_path):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(unlabelled_run, folder)
    shutil.copytree(pictures, moved)
    paths = visualize(
        folder, output_dir=tmp_path / "out", quick=True, device="cpu", overrides=[f"data.data_path={moved}"]
    )
    assert len(paths) == len(QUICK)
    with pytest.raises(UserError, match=r"^model\.depth: cannot be changed for figures"):
        visualize(folder, overrides={"model.depth": 1})
    with pytest.raises(UserError, match=r"did you mean data\.data_path"):
        visualize(folder, overrides=["data.datapath=x"])
    with pytest.raises(UserError, match="nowhere"):
        visualize(folder, overrides={"data.data_path": str(tmp_path / "nowhere")}, device="cpu")


def test_mistakes_are_one_line_errors(labelled_run, tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        visualize(tmp_path / "nothing")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="--output-dir") as caught:
        visualize(labelled_run, output_dir=tmp_path / "file" / "x", device="cpu")
    assert "\n" not in str(caught.value)
    folder = tmp_path / "run"
    shutil.copytree(labelled_run, folder)
    (folder / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="not a JSON object; evaluate again"):
        visualize(folder, device="cpu")


def test_figures_are_embedded_without_loss_unless_they_are_large():
    draw = np.random.Generator(np.random.Philox(key=2))
    figure = new_figure(9, LIGHT)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(draw.integers(0, 255, (1350, 1350, 3), dtype=np.uint8), interpolation="nearest")
    heavy = to_png(figure)
    light = to_png(new_figure(1, LIGHT))
    assert np.array_equal(embedded(data_uri(light)), np.asarray(Image.open(io.BytesIO(light)).convert("RGB")))
    assert len(data_uri(heavy)) < len(heavy)
    assert len(data_uri(heavy, quality=25)) < len(data_uri(heavy))
    assert embedded(data_uri(heavy)).shape == embedded(data_uri(heavy, quality=25)).shape == (1350, 1350, 3)


def embedded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_text_of_a_run_is_escaped():
    hostile = """</style></title><script>alert("1")</script> & 'x' {{ 7 * 7 }} {% raw %}"""
    png = to_png(new_figure(1, LIGHT, width=4.5))
    config = load_config(TINY)
    results = make_results(0.6, 0.4, 0.3, step=10) | {"protocol": hostile}
    evidence = Evidence(config, 16, 10, Records([train_record(10)]), results, hostile, [0.1, 0.2])
    figure = Figure("curves", hostile, hostile, hostile, hostile, lambda theme: new_figure(1, theme))
    text = Report(
        title=hostile,
        subtitle=hostile,
        summary=[(hostile, hostile)],
        verdict=replace(
            judge(evidence), headline=hostile, sentence=hostile, findings=(Finding("warn", hostile, hostile),)
        ),
        evidence=evidence,
        geometry=resolve(config.model, config.data.image_size),
        targets=(4, 4),
        sections=[DrawnFigure(figure, png, png), Omitted("masks", hostile, hostile)],
        settings=hostile,
        environment=[(hostile, hostile)],
        checkpoint=hostile,
    ).html()
    page = Page(text)
    assert "script" not in page.tags
    assert page.images[0]["alt"] == hostile
    assert (page.images[0]["width"], page.images[0]["height"]) == ("675", "150")
    assert page.images[0]["style"] == "--share:50.0%"
    assert text.startswith("<!doctype html>")
    # Title, heading, subtitle, both sides of the summary and so on: every place shows the words as they are.
    assert words(text).count(hostile) >= 15


def test_tables_show_the_accuracies_of_the_split_that_they_name():
    config = load_config(TINY)
    geometry = resolve(config.model, config.data.image_size)
    both = make_results(0.6, 0.4, 0.3, step=10)
    results = {
        "test": {key: value for key, value in both.items() if key != "validation"},
        "validation": both | both["validation"] | {"split": "validation"},
    }
    for split, found in results.items():
        evidence = Evidence(config, 16, 10, Records([train_record(10)]), found, "run", [0.1, 0.2])
        controls, levels = controls_table(evidence), levels_table(evidence, geometry, (4, 4))
        for table, shown in ((controls, found["linear_probe"]), (levels, found["linear_probe"]["levels"][0])):
            assert f"(accuracy on {split} images)" in table.caption
            (probe,) = (column for column in table.columns if column.title == "Linear probe, %")
            assert probe.cells[0].text == f"{100 * shown['trained']:.1f}"


def test_prose_is_escaped_before_markup_is_added():
    assert prose("`a<b>` & arXiv:2210.02885") == (
        '<code>a&lt;b&gt;</code> &amp; <a href="https://arxiv.org/abs/2210.02885">arXiv:2210.02885</a>'
    )


def test_validation_results_are_found_with_or_without_test_results(tmp_path):
    from hjepa.visualization.visualize import _read_results

    assert _read_results(tmp_path) is None
    alone = {"split": "validation", "step": 4, "knn": {"trained": 0.3}, "images": 9}
    (tmp_path / "results_validation.json").write_text(json.dumps(alone), encoding="utf-8")
    assert _read_results(tmp_path) == alone
    test = {"split": "test", "step": 4, "knn": {"trained": 0.9}, "images": 60}
    (tmp_path / "results.json").write_text(json.dumps(test), encoding="utf-8")
    assert _read_results(tmp_path) == test | {"validation": {"knn": {"trained": 0.3}, "images": 9}}
    # Figures of another step say nothing of this one.
    (tmp_path / "results_validation.json").write_text(json.dumps(alone | {"step": 2}), encoding="utf-8")
    assert _read_results(tmp_path) == test
