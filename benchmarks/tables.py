"""Generate the tables of published results in the documentation from the files under docs/results.

    python -m benchmarks.tables            # updates the pages
    python -m benchmarks.tables --check    # lists pages that differ from their files, with exit code 1

A page marks a table with `<!-- table: NAME -->` and `<!-- end of NAME -->`; the text between the marks is replaced. A
test compares the pages with the files, so a number edited by hand makes it fail.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from benchmarks.published import (
    cifar10,
    gpu,
    health,
    hierarchy,
    overview,
    quickstart,
    recipe,
    reliability,
    selection,
    speed,
    trained_protocols,
)
from benchmarks.published.readings import ROOT, Published

PAGES = ("README.md", "docs/presets.md", "docs/models.md", "docs/health.md", "docs/results/*.md")
TABLES: dict[str, Callable[[Published], str]] = {
    "summary": overview.summary,
    "readme": overview.readme,
    "presets": overview.presets,
    "models": overview.models,
    "disclosure": overview.disclosure,
    "selection_bias": selection.bias,
    "failed": recipe.failed,
    "learned": recipe.learned,
    "log": recipe.log,
    "quickstart_seeds": quickstart.seeds,
    "quickstart_timed": quickstart.timed,
    "quickstart_before_bf16": quickstart.before_bf16,
    "quickstart_before_float32": quickstart.before_float32,
    "quickstart_levels": quickstart.levels,
    "quickstart_goals": quickstart.goals,
    "quickstart_cheaper": quickstart.cheaper,
    "shapes": quickstart.shapes,
    "cifar10_levels": cifar10.levels,
    "cifar10_seeds": cifar10.seeds,
    "cifar10_goal": cifar10.goal,
    "cifar10_128_levels": cifar10.levels_128,
    "cifar10_128_seeds": cifar10.seeds_128,
    "gpu_levels": gpu.levels,
    "gpu_speed": gpu.speed,
    "fine_tuning": trained_protocols.fine_tuning,
    "robustness": trained_protocols.robustness,
    "segmentation": trained_protocols.segmentation,
    "detection": trained_protocols.detection,
    "hierarchy_claim": hierarchy.claim,
    "hierarchy_paired": hierarchy.paired,
    "hierarchy_equal_work": hierarchy.equal_work,
    "hierarchy_pairs": hierarchy.pairs,
    "hierarchy_work": hierarchy.work_of_pairs,
    "six_blocks": hierarchy.six_blocks,
    "six_blocks_said": hierarchy.six_blocks_said,
    "speed": speed.everything,
    "speed_before": speed.before,
    "stress": reliability.stress,
    "processes": reliability.processes,
    "nodes": reliability.nodes,
    "six_runs": health.six_runs,
    "online_ranking": health.ranking,
    "online_runs": health.runs,
}
_MARKED = re.compile(r"<!-- table: (?P<name>\w+) -->\n.*?<!-- end of (?P=name) -->", re.S)


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may contain tables."""
    return sorted(page for pattern in PAGES for page in root.glob(pattern))


def filled(page: str, published: Published) -> str:
    """The page with its tables regenerated.

    Raises:
        KeyError: a mark names an unknown table.
    """

    def made(found: re.Match[str]) -> str:
        name = found["name"]
        lines = "\n".join(_wrapped(line) for line in TABLES[name](published).splitlines())
        return f"<!-- table: {name} -->\n{lines}\n<!-- end of {name} -->"

    return _MARKED.sub(made, page)


def _wrapped(line: str) -> str:
    """Wrap a line of prose or of a list to 120 characters; table rows and headings stay as they are."""
    if line.startswith(("|", "#")):
        return line
    marker = re.match(r"(?:- |\d+\. )?", line)
    indent = " " * (marker.end() if marker else 0)
    return textwrap.fill(line, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def unmarked(page: str) -> str:
    """The page without its generated tables."""
    return _MARKED.sub("", page)


def names(page: str) -> list[str]:
    """Names of the tables on a page."""
    return [found["name"] for found in _MARKED.finditer(page)]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page differs")
    given = options.parse_args(arguments)
    published = Published()
    differ = []
    for page in pages():
        now = page.read_text(encoding="utf-8")
        made = filled(now, published)
        if made != now:
            differ.append(page)
            if not given.check:
                page.write_text(made, encoding="utf-8")
    for page in differ:
        print(f"{page.relative_to(ROOT)}: {'differs from its files' if given.check else 'written'}")
    if given.check and differ:
        sys.exit(1)


if __name__ == "__main__":
    main()
