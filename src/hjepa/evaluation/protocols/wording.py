"""How protocols name features and write numbers in their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LABELS = {"pixels": "raw pixels", "pca": "PCA of pixels"}


def percent(value: float | None) -> str:
    """A share of 1 in per cent, with one decimal; ``-`` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of decimals; ``-`` for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def scored_rows(columns: Sequence[dict[str, Any]], results: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Label and values of every row: the trained model, the untrained one, then the other controls.

    Args:
        columns: what `hjepa.evaluation.scores.for_each` returned, with other keys beside it.
        results: all results of the evaluation.
    """
    single = len(results["cka"]) == 1
    on_request = [entry["name"] for entry in results.get("controls", ())]
    rows: list[tuple[str, list[Any]]] = []
    for name in ("trained", "untrained"):
        if not any(name in column for column in columns):
            continue
        rows.append((name if single else f"{name}, all levels", [column.get(name) for column in columns]))
        if single:
            continue
        for number, entry in enumerate(next(iter(columns))["levels"]):
            rows.append((f"{name}, level {entry['level']}", [column["levels"][number].get(name) for column in columns]))
    for name in ("trained_depths", "untrained_depths"):
        if any(name in column for column in columns):
            blocks = ", ".join(map(str, results["depths"]))
            label = f"{name.removesuffix('_depths')}, after blocks {blocks}"
            rows.append((label, [column.get(name) for column in columns]))
    for name in (*on_request, "pca", "pixels"):
        if any(name in column for column in columns):
            rows.append((_LABELS.get(name, name), [column.get(name) for column in columns]))
    return rows
