"""By how much choosing on test can flatter: from the file of `benchmarks.selection_bias`, once it is there."""

from __future__ import annotations

from benchmarks.published.readings import Published
from benchmarks.published.text import table
from benchmarks.report import text

FILE = "selection_bias.json"


def bias(published: Published) -> str:
    """The estimate: a sentence, a table, or that there is none yet."""
    if not (published.root / FILE).is_file():
        return "By how much that can flatter has not been estimated yet."
    tree = published.json(FILE)
    parts = []
    if isinstance(tree.get("said"), str):
        parts.append(f"{tree['said']} ([figures]({FILE}))")
    rows = tree.get("rows")
    if rows:
        names = list(rows[0])
        numbers = [any(isinstance(row[name], int | float) for row in rows) for name in names]
        left = [i for i, number in enumerate(numbers) if not number]
        parts.append(table(names, [[text(row[name]) for name in names] for row in rows], left))
    return "\n\n".join(parts)
