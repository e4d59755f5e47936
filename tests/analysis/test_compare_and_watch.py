"""`hjepa compare` and `hjepa watch`."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from tests.analysis.conftest import Folder, evaluation
from tests.health.synthetic_records import make_results, train_record

from hjepa.analysis import compare, watch
from hjepa.analysis.compare import table
from hjepa.analysis.watch import sparkline
from hjepa.errors import UserError


def test_differing_keys_come_first_and_nothing_else(real_runs: dict[str, Path]) -> None:
    result = compare([real_runs["collapsed"], real_runs["stuck"]])
    keys = {row["name"]: row["values"] for row in result["differences"]}
    assert keys["training.lr"] == ["0.005", "1e-07"]
    assert keys["model.ema.momentum"] == ["0", "0.996"]
    assert "data.subset" not in keys
    assert not [key for key in keys if key.startswith("logging.")]
    text = table(result)
    assert text.index("training.lr") < text.index("online k-NN")
    assert [run["state"] for run in result["runs"]] == ["collapsed", "stuck"]


def test_the_page_needs_no_other_file(real_runs: dict[str, Path], tmp_path: Path) -> None:
    outputs = [tmp_path / "runs.html", tmp_path / "runs.json"]
    result = compare(list(real_runs.values()), output=outputs)
    page = outputs[0].read_text()
    assert not re.findall(r'(?:src|srcset|href)="(?!data:|#)[^"]*"', page)
    assert "<script" not in page
    assert page.index("Differing keys") < page.index("Results") < page.index("Curves")
    for name in real_runs:
        assert name in page
    assert len(page) < 2e6
    assert json.loads(outputs[1].read_text()) == result
    with pytest.raises(UserError, match="--force"):
        compare(list(real_runs.values()), output=outputs)


def test_names_and_values_are_escaped(folder: Folder, tmp_path: Path) -> None:
    runs = [folder(name="a<b"), folder(name="c&d", changes={"seed": 4})]
    compare(runs, output=tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "a<b" not in page
    assert "a&lt;b" in page


def test_accuracies_are_compared_by_split_and_test_chooses_nothing(folder: Folder) -> None:
    runs = [folder(), folder()]
    for run, trained in zip(runs, (0.6, 0.7), strict=True):
        (run / "results.json").write_text(json.dumps(make_results(trained, 0.4, 0.3, step=20_000)))
    from hjepa.analysis.comparison import compared, results
    from hjepa.analysis.history import read_history

    rows = {row.name: row for row in results(compared([read_history(run) for run in runs]))}
    assert rows["linear probe on validation"].values == [0.6, 0.7]
    assert rows["linear probe on validation"].best == {1}
    assert rows["linear probe on test"].values == [0.51, 0.51]
    assert rows["linear probe on test, level 0"].best == set()
    assert rows["k-NN on validation, untrained"].best == set()


def test_features_of_runs_can_be_compared_on_the_same_images(real_runs: dict[str, Path], tmp_path: Path) -> None:
    runs = [real_runs["collapsed"], real_runs["stuck"]]
    assert compare(runs)["cka"] == []
    (pair,) = compare(runs, cka=True, device="cpu", output=tmp_path / "x.html")["cka"]
    assert (pair["a"], pair["b"], pair["split"]) == ("collapsed", "stuck", "validation")
    assert len(pair["cka"]) == len(pair["cka"][0]) == 2
    assert "Similarity of features" in (tmp_path / "x.html").read_text()


def test_runs_of_the_same_name_are_told_apart(folder: Folder, tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent).mkdir()
        folder(name=f"{parent}/run")
    result = compare([tmp_path / "one" / "run", tmp_path / "two" / "run"])
    assert [run["name"] for run in result["runs"]] == ["one/run", "two/run"]
    assert result["differences"] == []


def test_one_run_or_the_same_run_twice_is_refused(folder: Folder) -> None:
    run = folder()
    with pytest.raises(UserError, match="two or more"):
        compare([run])
    with pytest.raises(UserError, match="more than once"):
        compare([run, run])


def frame(run: Path, **options: object) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    watch(run, console=console, **options)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_one_view_shows_progress_terms_k_nn_health_and_log(real_runs: dict[str, Path]) -> None:
    text = frame(real_runs["collapsed"], once=True)
    for word in ("100%", "finished", "images/s", "loss/level_0", "gradient norm", "online k-NN", "red", "trained"):
        assert word in text


def test_a_running_run_shows_the_time_left_and_a_partial_line_is_left_out(folder: Folder) -> None:
    run = folder([train_record(s) for s in range(500, 5001, 500)], [evaluation(4000)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 55')
    text = frame(run, once=True)
    assert "step 5,000 of 20,000" in text
    assert "left" in text
    assert "running" in text


def test_a_run_without_records_can_be_watched(folder: Folder) -> None:
    assert "no records yet" in frame(folder([], [], untrained=False), once=True)


def test_the_view_follows_the_files_and_ends_with_the_run(folder: Folder) -> None:
    run = folder([train_record(s) for s in range(500, 5001, 500)], [])
    console = Console(file=io.StringIO(), width=120, force_terminal=True)

    def train() -> None:
        for step in range(5500, 20_001, 500):
            line = json.dumps(train_record(step)) + "\n"
            with (run / "metrics.jsonl").open("a") as file:
                file.write(line[:20])
                file.flush()
                time.sleep(0.01)
                file.write(line[20:])

    writer = threading.Thread(target=train)
    writer.start()
    history = watch(run, seconds=0.01, console=console)
    writer.join()
    assert history.status() == "finished"
    text = console.file.getvalue()  # type: ignore[attr-defined]
    seen = re.findall(r"step ([\d,]+) of 20,000", text)
    assert len(set(seen)) > 2
    assert seen[-1] == "20,000"


def test_a_sparkline_shows_the_course() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1000)), width=20)) == 20
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == ""
