"""The report: one self-contained HTML file without external resources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hjepa.version import __version__
from hjepa.visualization.figures.figure import Omitted
from hjepa.visualization.report.pictures import QUALITIES, DrawnFigure, data_uri
from hjepa.visualization.report.tables import controls_table, levels_table

if TYPE_CHECKING:
    from hjepa.config import Geometry
    from hjepa.health.evidence import Evidence
    from hjepa.health.verdict import Verdict
    from hjepa.visualization.report.hover import HoverMap

LARGEST = 7_900_000
"""Characters of a report, nearly all of which are single bytes."""
_CODE = re.compile(r"`([^`]+)`")
_PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Report:
    """Contents of a report; the layout is in ``report.html.j2``.

    Attributes:
        title: name of the run.
        subtitle: the run in one line.
        summary: what was run, as pairs of term and description.
        verdict: the verdict on the run.
        evidence: the numbers.
        geometry: sizes of the model.
        targets: cells predicted per level; None if the method predicts none.
        sections: figures in the order of the page.
        settings: the whole configuration as YAML.
        environment: versions and machine, as pairs of name and value.
        checkpoint: path of the checkpoint.
        hover: the interactive map of the embedding, if any.
        left_out: titles of figures that the command of a whole report would add.
    """

    title: str
    subtitle: str
    summary: list[tuple[str, str]]
    verdict: Verdict
    evidence: Evidence
    geometry: Geometry
    targets: tuple[int, ...] | None
    sections: list[DrawnFigure | Omitted]
    settings: str
    environment: list[tuple[str, str]]
    checkpoint: str
    hover: HoverMap | None = None
    left_out: tuple[str, ...] = ()

    def html(self) -> str:
        """The page; below 8 MB, with figures compressed more if needed."""
        for quality in QUALITIES:
            page = self._render(quality)
            if len(page) <= LARGEST:
                break
        return page

    def _render(self, quality: int) -> str:
        return (
            templates()
            .get_template("report.html.j2")
            .render(
                report=self,
                controls=controls_table(self.evidence),
                levels=levels_table(self.evidence, self.geometry, self.targets),
                protocol=str((self.evidence.results or {}).get("protocol") or ""),
                version=__version__,
                today=datetime.now(UTC).date().isoformat(),
                quality=quality,
            )
        )


@cache
def templates() -> Environment:
    """The Jinja environment of this package: values are escaped, undefined names are errors."""
    found = Environment(
        loader=PackageLoader("hjepa.visualization", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(prose=prose, data_uri=data_uri)
    return found


def prose(text: str) -> Markup:
    """Convert text to HTML, with `backticks` as code and arXiv numbers as links."""
    marked = _CODE.sub(r"<code>\1</code>", str(escape(text)))
    return Markup(_PAPER.sub(r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', marked))
