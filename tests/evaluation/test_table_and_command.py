"""The results table in a pipe and in a terminal, and the command `hjepa evaluate`."""

import io
import json

import pytest
import typer
from typer.testing import CliRunner

from hjepa.cli.evaluate import evaluate as command
from hjepa.errors import UserError
from hjepa.evaluation import evaluate, format_table, print_table

BOXES = set("│┃━─┏┡└┌")


@pytest.fixture(scope="module")
def results(run_dir, tmp_path_factory):
    return evaluate(run_dir, device="cpu", output=tmp_path_factory.mktemp("table") / "r.json")


def test_plain_table_is_aligned_and_complete(results):
    head, blank, *lines = format_table(results).splitlines()
    assert "80 training images, 60 test images" in head
    assert "step 4" in head
    assert blank == ""
    assert "validation images" in lines.pop()
    assert lines[0].split() == ["features", "linear", "probe", "k-NN-1", "k-NN-5", "k-NN-10", "k-NN-20", "rank"]
    labels = [line.split("  ")[0] for line in lines[1:]]
    assert labels == [
        "trained, all levels",
        "trained, level 0",
        "trained, level 1",
        "untrained, all levels",
        "untrained, level 0",
        "untrained, level 1",
        "PCA of pixels",
        "raw pixels",
        "chance",
    ]
    assert len({len(line) for line in lines}) == 1
    assert f"{100 * results['linear_probe']['trained']:.1f}" in lines[1]
    assert f"{results['rank']['levels'][1]['untrained']:.1f}" in lines[6]
    assert not BOXES & set("".join(lines))


def test_a_pipe_gets_plain_text_with_long_lines(results):
    pipe = io.StringIO()
    long = results | {"checkpoint": "/a/very/long/path" * 20}
    print_table(long, pipe)
    assert pipe.getvalue() == format_table(long) + "\n"
    assert long["checkpoint"] in pipe.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_drawn_table(results):
    terminal = Terminal()
    print_table(results, terminal)
    assert BOXES & set(terminal.getvalue())
    assert "raw pixels" in terminal.getvalue()


def test_skipped_parts_are_listed_below_the_table(results):
    skipped = results | {
        "linear_probe": {"skipped": "no labels"},
        "knn": {"skipped": "no labels"},
        "chance": None,
    }
    del skipped["validation"]
    text = format_table(skipped)
    assert text.splitlines()[-2:] == ["linear probe skipped: no labels", "k-NN skipped: no labels"]
    assert "raw pixels" not in text
    assert "trained, level 1" in text
    terminal = Terminal()
    print_table(skipped, terminal)
    assert "k-NN skipped: no labels" in terminal.getvalue()


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    app.command()(command)
    return app


def test_command_writes_results_and_prints_the_table(app, run_dir, tmp_path):
    arguments = ["--checkpoint", str(run_dir), "--eval-type", "knn", "--k-values", "1,5", "--k-values", "9"]
    more = ["--hierarchy-levels", "1", "--device", "cpu", "--batch-size", "32", "--output", str(tmp_path / "r.json")]
    outcome = CliRunner().invoke(app, [*arguments, *more, "evaluation.test_images=40"])
    assert outcome.exit_code == 0, outcome.output
    written = json.loads((tmp_path / "r.json").read_text())
    assert list(written["knn"]["by_k"]) == ["1", "5", "9"]
    assert written["test_images"] == 40
    assert format_table(written) in outcome.stdout
    assert "level 0" not in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--checkpoint: missing"),
        (["--k-values", "five"], "--k-values: 'five' is not a whole number"),
        (["--k-values", ","], "--k-values: no value given"),
        (["--hierarchy-levels", "1.5"], "--hierarchy-levels: '1.5' is not a whole number"),
        (["--eval-type", "knn,segment"], "eval_type: unknown value 'segment'"),
        (["training.lr=1"], "training.lr: cannot be changed in an evaluation"),
    ],
)
def test_invalid_arguments_are_user_errors(app, run_dir, arguments, message):
    given = ["--checkpoint", str(run_dir), "--device", "cpu", *arguments] if arguments else []
    outcome = CliRunner().invoke(app, given)
    assert isinstance(outcome.exception, UserError)
    assert message in str(outcome.exception)
