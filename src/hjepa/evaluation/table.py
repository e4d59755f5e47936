"""The result table: aligned plain text in a file or pipe, a Rich table in a terminal."""

from __future__ import annotations

import sys
from typing import Any, TextIO

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
            cells.append(_percent(_at(scores, key, level)))
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
        rows += [line(label, key) for key, label in _CONTROLS if key in readings[0][1]]
        rows.append(["chance", *(_percent(results["chance"]) for _ in readings), "-"])
    return header, rows


def notes(results: dict[str, Any]) -> list[str]:
    """Lines around the table: data and checkpoint first, then skipped parts and validation results."""
    split, images = read_split(results)
    head = (
        f"{results['description']}: {results['train_images']} training images, {images} {split} images; "
        f"{results['checkpoint']} at step {results['step']}"
    )
    skipped = [
        f"{label} skipped: {results[key]['skipped']}"
        for key, label in (("linear_probe", "linear probe"), ("knn", "k-NN"))
        if "skipped" in results.get(key, {})
    ]
    return [head, *skipped, *_beside(results)]


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
        parts.append(f"linear probe {_percent(validation['linear_probe']['trained'])}")
    if "trained" in validation.get("knn", {}):
        parts.append(f"k-NN-{validation['knn']['k']} {_percent(validation['knn']['trained'])}")
    if not parts:
        return []
    return [
        f"on {validation['images']} validation images: {', '.join(parts)}; "
        "use these to choose between runs; report test accuracy once"
    ]


def format_table(results: dict[str, Any]) -> str:
    """The table as aligned plain text, never wrapped."""
    header, rows = table_rows(results)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *rows]
    ]
    head, *skipped = notes(results)
    return "\n".join([head, "", *(line.rstrip() for line in lines), *skipped])


def print_table(results: dict[str, Any], file: TextIO | None = None) -> None:
    """Print the table, drawn with Rich where ``file`` (standard output when not given) is a terminal."""
    file = sys.stdout if file is None else file
    if not file.isatty():
        print(format_table(results), file=file)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, rows = table_rows(results)
    head, *skipped = notes(results)
    table = Table(caption=f"accuracy on {read_split(results)[0]} in per cent; rank of the training features")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row, style="bold" if row is rows[0] else None)
    console = Console(file=file)
    console.print(Text(head))
    console.print(table)
    for line in skipped:
        console.print(Text(line))


def _at(scores: dict[str, Any], key: str, level: int | None) -> float | None:
    if level is None:
        return scores.get(key)
    return next((entry.get(key) for entry in scores["levels"] if entry["level"] == level), None)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
