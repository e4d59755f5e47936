"""The program `hjepa`: registers the commands and prints user errors as one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from hjepa.cli import (
    ablate,
    analyze,
    bench,
    compare,
    config,
    data,
    doctor,
    duplicates,
    embed,
    evaluate,
    pack,
    similar,
    train,
    visualize,
    watch,
)
from hjepa.cli.arguments import normalise
from hjepa.errors import UserError

app = typer.Typer(
    name="hjepa",
    help="Hierarchical joint-embedding predictive self-supervised learning for images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich layout in terminals only; files and pipes get plain text.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(visualize.visualize)
app.command()(ablate.ablate)
app.command()(pack.pack)
app.command()(embed.embed)
app.command()(similar.similar)
app.command()(duplicates.duplicates)
app.command()(analyze.analyze)
app.command()(compare.compare)
app.command()(watch.watch)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.command()(bench.bench)
app.command()(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from hjepa.version import __version__

        typer.echo(f"hjepa {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main(arguments: Sequence[str] | None = None, *, verb: str | None = None) -> None:
    """Run the program and exit.

    Args:
        arguments: the command line without the program's name.
        verb: command to put before the arguments, for scripts that wrap a single command.
    """
    for stream in (sys.stdout, sys.stderr):
        # File names may contain undecodable bytes, and the terminal's encoding may lack characters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    given = normalise(given if verb is None else [verb, *given])
    try:
        app(args=given, standalone_mode=True, prog_name="hjepa")
    except UserError as error:
        for line in () if error.said else str(error).splitlines():
            print(f"hjepa: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("hjepa: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
