"""The command `hjepa visualize`."""

import pytest
import typer
from typer.testing import CliRunner

from hjepa.cli.visualize import visualize
from hjepa.errors import UserError


def run(*arguments):
    app = typer.Typer()
    app.command()(visualize)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_prints_the_paths_it_wrote(unlabelled_run, tmp_path):
    result = run(
        "--checkpoint", unlabelled_run, "--output-dir", tmp_path, "--device", "cpu", "--generate-report",
        "--figures", "masks,maps", "data.num_workers=0",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "report.html") in result.stdout.splitlines()
    assert (tmp_path / "maps.png").is_file()


def test_the_checkpoint_is_required():
    with pytest.raises(UserError, match="--checkpoint: missing"):
        raise run().exception
