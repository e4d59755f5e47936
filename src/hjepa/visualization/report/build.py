"""The report: one self-contained HTML file, without scripts and without anything fetched from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from hjepa.visualization.figures.figure import Exhibit, Omitted
from hjepa.visualization.report.markup import escape, picture, prose, tag
from hjepa.visualization.report.tables import controls_table, levels_table

if TYPE_CHECKING:
    from hjepa.config import Geometry
    from hjepa.health.evidence import Evidence
    from hjepa.health.verdict import Verdict

_KINDS = {"bad": "Problem", "warn": "Caution", "good": "Good", "note": "Note"}


@dataclass(frozen=True)
class Drawn:
    """An exhibit with its figure in both themes, as PNG."""

    exhibit: Exhibit
    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Report:
    """Everything that stands in a report.

    Attributes:
        title: name of the run.
        subtitle: the run in a line.
        facts: what was run.
        verdict: what came of it.
        evidence: the numbers.
        geometry: sizes of the model.
        targets: cells predicted per level.
        sections: figures in the order of the page.
        settings: the whole configuration as YAML.
        environment: versions and machine, pairs of name and value.
        checkpoint: file that was read.
    """

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    verdict: Verdict
    evidence: Evidence
    geometry: Geometry
    targets: tuple[int, ...]
    sections: list[Drawn | Omitted]
    settings: str
    environment: list[tuple[str, str]]
    checkpoint: str

    def html(self) -> str:
        """The page."""
        style = (resources.files("hjepa.visualization") / "report.css").read_text(encoding="utf-8")
        body = "\n".join(
            [
                self._header(),
                tag(
                    "main",
                    "\n".join(
                        [
                            self._verdict(),
                            self._run(),
                            self._numbers(),
                            *self._figures(),
                            self._next(),
                            self._appendix(),
                        ]
                    ),
                ),
                self._footer(),
            ]
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)} \N{EN DASH} H-JEPA report</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )

    # -- sections ------------------------------------------------------------------------------------------------

    def _header(self) -> str:
        links = [("verdict", "Verdict"), ("run", "Run"), ("numbers", "Numbers")]
        links += [(self._name(section), self._title(section)) for section in self.sections]
        links += [("next", "Next run"), ("configuration", "Configuration")]
        nav = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in links)
        kicker = '<p class="kicker">H-JEPA training report</p>'
        under = f'<p class="subtitle">{escape(self.subtitle)}</p>'
        return f'<header>{kicker}<h1>{escape(self.title)}</h1>{under}<nav aria-label="Sections">{nav}</nav></header>'

    def _verdict(self) -> str:
        v = self.verdict
        items = "".join(
            f'<li class="{f.kind}"><span class="mark">{_KINDS[f.kind]}</span><span>{prose(f.text)}</span></li>'
            for f in v.findings
        )
        findings = f'<ul class="findings">{items}</ul>' if items else ""
        lead = (
            f'<div class="verdict {v.kind}"><h2 id="verdict">{escape(v.headline)}</h2><p>{prose(v.sentence)}</p></div>'
        )
        return tag("section", lead + findings)

    def _run(self) -> str:
        rows = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in self.facts)
        return tag("section", f'<h2 id="run">What was run</h2><dl class="facts">{rows}</dl>')

    def _numbers(self) -> str:
        controls = controls_table(self.evidence)
        if self.evidence.results is None:
            controls = (
                '<p class="absent">There is no <code>results.json</code> beside this checkpoint, so the table against controls is '
                f"missing. To make it: <code>hjepa evaluate --checkpoint {escape(self.evidence.run)}</code></p>"
            )
        elif self.evidence.main is None and self.evidence.skipped:
            controls += f'<p class="absent">Linear probe and k-NN were skipped: {escape(self.evidence.skipped)}.</p>'
        levels = levels_table(self.evidence, self.geometry, self.targets)
        return tag("section", f'<h2 id="numbers">Numbers</h2>{controls}{levels}{self._how_to_read()}')

    def _how_to_read(self) -> str:
        notes = [
            "Untrained: the same network with the weights of step 0, read in the same way. "
            "Effective rank: RankMe (arXiv:2210.02885) of pooled features; 1 means that all images get the same vector. "
            "Loss / chance: the loss as a share of what always answering with the mean target would cost. "
            "Position share: variance of cell features that a cell's position alone explains. "
            "CKA (arXiv:1905.00414): 1 means two levels hold the same information."
        ]
        protocol = (self.evidence.results or {}).get("protocol")
        if protocol:
            notes.insert(0, str(protocol))
        inner = "".join(f"<p>{prose(note)}</p>" for note in notes)
        return f"<details><summary>How these numbers were made</summary>{inner}</details>"

    def _figures(self) -> list[str]:
        pages = []
        for section in self.sections:
            heading = f'<h2 id="{self._name(section)}">{escape(self._title(section))}</h2>'
            if isinstance(section, Omitted):
                pages.append(tag("section", f'{heading}<p class="absent">{prose(section.reason)}</p>'))
                continue
            e = section.exhibit
            caption = f"<figcaption><p>{prose(e.caption)}</p><p><b>Look for</b> {prose(e.look_for)}</p></figcaption>"
            image = picture(section.light, section.dark, e.alt)
            pages.append(tag("section", f"{heading}<figure>{image}{caption}</figure>"))
        return pages

    def _next(self) -> str:
        advice = self.verdict.recommendations
        if advice:
            content = "<ol>" + "".join(f"<li>{prose(text)}</li>" for text in advice) + "</ol>"
            content += (
                '<p class="aside">Drawn by fixed rules from training records and validation images, never from test, most '
                "pressing first. Change one thing at a time.</p>"
            )
        else:
            content = "<p>Nothing in the numbers asks for a change. More epochs or a larger encoder are the next things to try.</p>"
        return tag("section", f'<h2 id="next">For the next run</h2>{content}')

    def _appendix(self) -> str:
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self.environment)
        environment = f'<details><summary>Environment</summary><dl class="facts">{rows}</dl></details>' if rows else ""
        return tag(
            "section",
            '<h2 id="configuration">Configuration</h2>'
            f"<details><summary>All keys, as resolved</summary><pre><code>{escape(self.settings)}</code></pre></details>{environment}",
        )

    def _footer(self) -> str:
        from hjepa.version import __version__

        today = datetime.now(UTC).date().isoformat()
        return (
            f"<footer>Checkpoint <code>{escape(self.checkpoint)}</code>, step {self.evidence.step:,}. "
            f"Written by hjepa {escape(__version__)} on {today}.</footer>"
        )

    @staticmethod
    def _name(section: Drawn | Omitted) -> str:
        return section.exhibit.name if isinstance(section, Drawn) else section.name

    @staticmethod
    def _title(section: Drawn | Omitted) -> str:
        return section.exhibit.title if isinstance(section, Drawn) else section.title
