"""Compare runs on one self-contained page, and in a table for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from hjepa.analysis.analyze import finite
from hjepa.analysis.comparison import Compared, Row, compared, differences, results, text_of
from hjepa.analysis.history import read_history
from hjepa.analysis.lights import lights
from hjepa.analysis.overlay import color, overlay
from hjepa.errors import UserError
from hjepa.runtime.outputs import check_outputs, columns, write_json, write_text
from hjepa.version import __version__
from hjepa.visualization.figures.style import DARK, LIGHT, to_png
from hjepa.visualization.report.build import prose
from hjepa.visualization.report.pictures import data_uri

OUTPUTS = (".html", ".json")


def compare(
    runs: Sequence[str | Path],
    *,
    output: str | Path | Sequence[str | Path] | None = None,
    cka: bool = False,
    device: str = "auto",
    force: bool = False,
) -> dict[str, Any]:
    """Compare runs from their files, differing keys first.

    Args:
        runs: two or more run folders, or checkpoints in them.
        output: files to write: ``.html``, one self-contained page, or ``.json``, the result.
        cka: also compare the features of every two runs, level by level, on the same validation images of the first;
            this loads the models and reads images.
        device: where to encode for CKA.
        force: overwrite outputs.

    Returns:
        ``runs`` (``name``, ``path``, ``state``, ``status``), ``differences`` and ``results``, each a list of rows with
        ``name``, ``kind`` and a value for each run, ``cka`` (for each pair ``a``, ``b`` and the matrix ``cka``, a row per
        level of ``a``; empty unless asked for), and ``protocol``.

    Raises:
        UserError: fewer than two runs, the same run twice, no run folder, or an output that exists.
    """
    given = [] if output is None else [output] if isinstance(output, (str, Path)) else list(output)
    outputs = [Path(path) for path in given]
    for path in outputs:
        check_outputs([path], OUTPUTS, force=force)
    if len(runs) < 2:
        raise UserError(f"RUN: {len(runs)} run(s) given; give two or more to compare, or use hjepa analyze for one")
    histories = [read_history(run) for run in runs]
    folders = [history.folder.resolve() for history in histories]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"RUN: {folder} is given more than once; give different runs")
    found = compared(histories)
    similarities = _similarities(found, device) if cka else []
    result = _result(found) | {"cka": similarities}
    for path in outputs:
        if path.suffix == ".json":
            write_json(path, result)
        else:
            write_text(path, page(found, similarities))
    return result


def _result(runs: Sequence[Compared]) -> dict[str, Any]:
    found = {
        "runs": [
            {
                "name": run.name,
                "path": str(run.history.folder),
                "state": run.diagnosis.state,
                "evidence": list(run.diagnosis.evidence),
                "status": run.history.status(),
                "missing": run.history.missing,
            }
            for run in runs
        ],
        "differences": [row.as_dict() for row in differences(runs)],
        "results": [row.as_dict() for row in results(runs)],
        "protocol": (
            "From the files of the run folders. Accuracies are those of results.json; k-NN and ranks called online are from "
            "training. Runs should be chosen by validation images, not by test."
        ),
        "hjepa": __version__,
    }
    return finite(found)  # type: ignore[no-any-return]


def table(result: dict[str, Any]) -> str:
    """The comparison as plain text: differing keys first."""
    names = [run["name"] for run in result["runs"]]
    parts = []
    for title, rows in (("differing keys", result["differences"]), ("results", result["results"])):
        lines = [_cells(Row(row["name"], row["values"], row["kind"])) for row in rows]
        if lines:
            parts.append(columns((title, *names), lines, right=range(1, len(names) + 1)))
        else:
            parts.append(f"{title}: none")
    for pair in result["cka"]:
        levels = [f"{pair['b']} {level}" for level in range(len(pair["cka"][0]))]
        lines = [
            [f"{pair['a']} {level}", *("-" if value is None else f"{value:.2f}" for value in row)]
            for level, row in enumerate(pair["cka"])
        ]
        title = f"CKA on {pair['images']} {pair['split']} images"
        parts.append(columns((title, *levels), lines, right=range(1, len(levels) + 1)))
    return "\n\n".join(parts)


def _cells(row: Row) -> list[str]:
    return [row.name, *(text_of(row, value) for value in row.values)]


def _similarities(runs: Sequence[Compared], device: str) -> list[dict[str, Any]]:
    """CKA between the levels of every two runs, on validation images of the first run."""
    from hjepa.evaluation import cka_between

    home = runs[0].history.config
    found = []
    for a, b in itertools.combinations(runs, 2):
        measured = cka_between(
            a.history.folder,
            b.history.folder,
            split="validation",
            dataset=home.data.dataset,
            data_path=home.data.data_path,
            device=device,
        )
        found.append(
            {"a": a.name, "b": b.name, **{key: measured[key] for key in ("cka", "images", "split", "description")}}
        )
    return found


def page(runs: Sequence[Compared], similarities: Sequence[dict[str, Any]] = ()) -> str:
    """The page as HTML.

    Args:
        runs: what is compared.
        similarities: CKA of pairs of runs, as in the result of `compare`.
    """
    light, dark = to_png(overlay(runs, LIGHT)), to_png(overlay(runs, DARK))
    size = int.from_bytes(light[16:20], "big"), int.from_bytes(light[20:24], "big")
    return (
        _templates()
        .get_template("compare.html.j2")
        .render(
            runs=runs,
            colors=[(color(LIGHT, place), color(DARK, place)) for place in range(len(runs))],
            differences=differences(runs),
            results=results(runs),
            lights={run.name: lights(run.history)["course"] for run in runs},
            text_of=text_of,
            similarities=similarities,
            light=data_uri(light),
            dark=data_uri(dark),
            size=size,
            version=__version__,
            today=datetime.now(UTC).date().isoformat(),
        )
    )


@cache
def _templates() -> Environment:
    found = Environment(
        loader=ChoiceLoader([PackageLoader("hjepa.analysis", ""), PackageLoader("hjepa.visualization", "report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(prose=prose)
    return found
