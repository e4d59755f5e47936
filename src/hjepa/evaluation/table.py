"""The result table: aligned plain text in a file or pipe, a Rich table in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from hjepa.evaluation.protocols import PROTOCOLS, Block
from hjepa.evaluation.protocols.protocol import percent

_CONTROLS = (("pca", "PCA of pixels"), ("pixels", "raw pixels"))


def table_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: accuracies in per cent, rank as RankMe, ``-`` where nothing was measured.

    Args:
        results: what `hjepa.evaluation.evaluate` returned or wrote.
    """
    readings: list[tuple[str, dict[str, Any]]] = []
    probe, knn = results.get("linear_probe", {}), results.get("knn", {})
    if "trained" in probe:
        readings.append(("linear probe", probe))
    readings += [(f"k-NN-{k}", scores) for k, scores in knn.get("by_k", {}).items()]
    rank = results["rank"]
    header = ["features", *(name for name, _ in readings), "rank"]

    def line(label: str, key: str, level: int | None = None) -> list[str]:
        cells = [label]
        for _, scores in readings:
            cells.append(percent(_at(scores, key, level)))
        value = _at(rank, key, level)
        return [*cells, "-" if value is None else f"{value:.1f}"]

    rows = []
    levels = [entry["level"] for entry in rank["levels"]]
    single = len(results["cka"]) == 1
    for key in (k for k in ("trained", "untrained") if k in rank):
        rows.append(line(key if single else f"{key}, all levels", key))
        if not single:
            rows += [line(f"{key}, level {level}", key, level) for level in levels]
        if readings and "depths" in results:
            rows.append(line(f"{key}, after blocks {', '.join(map(str, results['depths']))}", f"{key}_depths"))
    if readings:
        rows += [line(control["name"], control["name"]) for control in results.get("controls", ())]
        rows += [line(label, key) for key, label in _CONTROLS if key in readings[0][1]]
        rows.append(["chance", *(percent(results["chance"]) for _ in readings), "-"])
    return header, rows


def notes(results: dict[str, Any]) -> list[str]:
    """Lines around the table: data and checkpoint first, then skipped parts and validation results."""
    split, images = read_split(results)
    head = (
        f"{results['description']}: {results['train_images']} training images, {images} {split} images; "
        f"{results['checkpoint']} at step {results['step']}"
    )
    skipped = [
        f"{protocol.label} skipped: {results[name]['skipped']}"
        for name, protocol in PROTOCOLS.items()
        if "skipped" in results.get(name, {})
    ]
    return [head, *skipped, *_beside(results), *(_origin(control) for control in results.get("controls", ()))]


def read_split(results: dict[str, Any]) -> tuple[str, int]:
    """The split that was evaluated and its number of images; older files without the keys used test."""
    return results.get("split", "test"), results.get("images", results.get("test_images", 0))


def _beside(results: dict[str, Any]) -> list[str]:
    """The validation results that come with test results, and what each is for."""
    validation = results.get("validation")
    if validation is None:
        return []
    parts = []
    if "trained" in validation.get("linear_probe", {}):
        parts.append(f"linear probe {percent(validation['linear_probe']['trained'])}")
    if "trained" in validation.get("knn", {}):
        parts.append(f"k-NN-{validation['knn']['k']} {percent(validation['knn']['trained'])}")
    if not parts:
        return []
    return [
        f"on {validation['images']} validation images: {', '.join(parts)}; "
        "use these to choose between runs; report test accuracy once"
    ]


def _origin(control: dict[str, Any]) -> str:
    """Weights, licence and source of a control on request."""
    about = [f"{control['name']}: weights {control['weights']}"]
    if control.get("licence"):
        about.append(f"licence {control['licence']}")
    if control.get("source"):
        about.append(f"from {control['source']}")
    return ", ".join(about)


def format_table(results: dict[str, Any]) -> str:
    """The table as aligned plain text, never wrapped."""
    header, rows = table_rows(results)
    head, *skipped = notes(results)
    return "\n".join([head, "", *_aligned(header, rows), *skipped])


def print_table(results: dict[str, Any], file: TextIO | None = None) -> None:
    """Print the table, drawn with Rich where ``file`` (standard output when not given) is a terminal."""
    file = sys.stdout if file is None else file
    if not file.isatty():
        print(format_table(results), file=file)
        return
    from rich.console import Console
    from rich.text import Text

    header, rows = table_rows(results)
    head, *skipped = notes(results)
    console = Console(file=file)
    console.print(Text(head))
    caption = f"accuracy on {read_split(results)[0]} in per cent; rank of the training features"
    console.print(_drawn(header, rows, caption=caption, first_bold=True))
    for line in skipped:
        console.print(Text(line))


def blocks(results: dict[str, Any]) -> list[Block]:
    """The small tables of every protocol that was run, in the order of `PROTOCOLS`."""
    return [
        block
        for name, protocol in PROTOCOLS.items()
        if name in results and "skipped" not in results[name]
        for block in protocol.blocks(results[name], results)
    ]


def print_blocks(results: dict[str, Any], file: TextIO | None = None) -> None:
    """Print what `print_table` has no room for: the small table of every protocol."""
    file = sys.stdout if file is None else file
    for block in blocks(results):
        print_block(block, file)


def print_block(block: Block, file: TextIO) -> None:
    """Print one small table: aligned plain text, or drawn with Rich where ``file`` is a terminal."""
    if not file.isatty():
        lines = _aligned(block.header, block.rows) if block.rows else []
        print("\n".join(["", block.title, *lines, *block.notes]), file=file)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file)
    console.print()
    console.print(Text(block.title, style="bold"))
    if block.rows:
        console.print(_drawn(block.header, block.rows))
    for note in block.notes:
        console.print(Text(note))


def _drawn(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str | None = None, first_bold: bool = False
) -> Any:
    """A Rich table: the first column left, numbers right."""
    from rich.table import Table

    table = Table(caption=caption)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right")
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if first_bold and number == 0 else None)
    return table


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of plain text: the first column left, numbers right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *rows]
    ]
    return [line.rstrip() for line in lines]


def _at(scores: dict[str, Any], key: str, level: int | None) -> float | None:
    if level is None:
        return scores.get(key)
    return next((entry.get(key) for entry in scores["levels"] if entry["level"] == level), None)
