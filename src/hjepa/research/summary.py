"""Results of a study as a record, a table and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hjepa.research.statistics import interval, paired_difference

if TYPE_CHECKING:
    from hjepa.data import Split
    from hjepa.research.budget import Cell
    from hjepa.research.study import Study

MEASURES = {
    "linear_probe/all": "linear, all levels",
    "linear_probe/depths": "linear, same depths",
    "linear_probe/last": "linear, last level",
    "knn/all": "k-NN, all levels",
    "knn/depths": "k-NN, same depths",
    "knn/last": "k-NN, last level",
    "rank": "rank",
}
"""Measures by key, with their names in tables."""
SHARES = tuple(key for key in MEASURES if key != "rank")


def summarise(
    study: Study,
    cells: list[Cell],
    runs: dict[str, list[dict[str, Any]]],
    controls: dict[str, Any] | None,
    environment: dict[str, Any] | None,
    split: Split = "validation",
) -> dict[str, Any]:
    """Means, intervals and paired differences of everything measured so far."""
    reference = {r["seed"]: r for r in runs.get(study.reference_cell, ()) if "failed" not in r}
    rows = []
    for cell in cells:
        found = runs.get(cell.name, [])
        good = {r["seed"]: r for r in found if "failed" not in r}
        row: dict[str, Any] = {
            "name": cell.name,
            "changes": cell.changes,
            "images": cell.images,
            "flop_per_image": cell.flop_per_image,
            "flop": cell.flop,
            "tokens": cell.tokens,
            "mean": {},
            "difference": {},
            "runs": found,
            "config": cell.config.model_dump(mode="json"),
        }
        for key in MEASURES:
            values = {seed: float(r[key]) for seed, r in good.items() if key in r}
            if not values:
                continue
            row["mean"][key] = interval(list(values.values())).as_dict()
            pairs = {seed: float(r[key]) for seed, r in reference.items() if key in r}
            difference = paired_difference(values, pairs)
            if cell.name != study.reference_cell and difference is not None:
                row["difference"][key] = difference.as_dict()
        rows.append(row)
    first = next((r for row in rows for r in row["runs"] if "failed" not in r), None)
    return {
        "title": study.title,
        "question": study.question,
        "reference": study.reference_cell,
        "budget": study.budget,
        "depths": study.depths,
        "seeds": study.seeds,
        "split": split,
        "data": None if first is None else {k: first[k] for k in ("description", "train_images", "images", "chance")},
        "controls": controls,
        "cells": rows,
        "environment": environment,
    }


def study_table(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row per cell with means and intervals in per cent, then the controls."""
    keys = [key for key in MEASURES if any(key in row["mean"] for row in results["cells"])]
    compared = [key for key in keys if key != "rank" and any(key in row["difference"] for row in results["cells"])]
    header = ["cell", "runs", "images", "GFLOP/image", "PFLOP", *(MEASURES[key] for key in keys)]
    header += [f"difference, {MEASURES[key]}" for key in compared if key.startswith("linear")]
    rows = []
    for row in results["cells"]:
        failed = sum("failed" in run for run in row["runs"])
        done = len(row["runs"]) - failed
        cells = [row["name"], f"{done}" + (f" ({failed} failed)" if failed else "")]
        cells += [f"{row['images']:,}", _scaled(row["flop_per_image"], 1e9), _scaled(row["flop"], 1e15)]
        cells += [_value(row["mean"].get(key), key) for key in keys]
        cells += [_difference(row["difference"].get(key)) for key in compared if key.startswith("linear")]
        rows.append(cells)
    return header, rows + _control_rows(results, keys, len(header))


def _control_rows(results: dict[str, Any], keys: list[str], width: int) -> list[list[str]]:
    controls = results["controls"]
    if not controls:
        return []
    rows = []
    names = {"untrained": "untrained reference", "pixels": "raw pixels", "pca": "PCA of pixels"}
    for control, label in names.items():
        cells = [label, "", "", "", ""]
        for key in keys:
            kind, _, reading = key.partition("/")
            scores = controls.get(kind, {})
            name = {"all": "untrained", "last": "untrained_last", "depths": "untrained_depths"}.get(reading, "")
            value = scores.get(name if control == "untrained" else control if reading == "all" else "")
            cells.append("" if value is None else f"{100 * value:.1f}")
        rows.append(cells + [""] * (width - len(cells)))
    return rows


def _scaled(flop: float | None, unit: float) -> str:
    """FLOP in a unit; a dash if the method does not count them."""
    return "-" if flop is None else f"{flop / unit:.3f}"


def _value(found: dict[str, Any] | None, key: str) -> str:
    if found is None:
        return "-"
    scale, unit = (1.0, "") if key == "rank" else (100.0, "")
    text = f"{scale * found['mean']:.1f}{unit}"
    if found["low"] is not None and key != "rank":
        text += f" ± {scale * (found['high'] - found['mean']):.1f}"
    return text


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    text = f"{100 * found['mean']:+.1f}"
    if found["low"] is not None:
        text += f" [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    return text


def format_study(results: dict[str, Any]) -> str:
    """The table as aligned plain text."""
    header, rows = study_table(results)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([headline(results), "", *lines])


def headline(results: dict[str, Any]) -> str:
    """One line that describes the study and its data."""
    data = results["data"]
    about = (
        ""
        if data is None
        else f"; {data['description']}, {data['train_images']} probe and {read_images(data)} {read_split(results)} images"
    )
    equal = "images seen" if results["budget"] == "images" else "FLOP"
    seeds = ", ".join(map(str, results["seeds"]))
    return f"{results['title']}: equal {equal}, seeds {seeds}; differences are paired, from {results['reference']!r}{about}"


def read_split(results: dict[str, Any]) -> str:
    """The split that a study was evaluated on; older files without the key used test."""
    return str(results.get("split", "test"))


def read_images(data: dict[str, Any]) -> int:
    """Number of images of that split, from the ``data`` part of the results."""
    return int(data["images"] if "images" in data else data["test_images"])


def markdown(results: dict[str, Any]) -> str:
    """Title, question, table, and how to read it."""
    header, rows = study_table(results)
    lines = [f"# {results['title']}", ""]
    if results["question"]:
        lines += [results["question"], ""]
    lines += [headline(results) + ".", ""]
    lines += ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        f"Accuracies on {read_split(results)} in per cent, mean over seeds ± half the 95 % confidence interval (Student's t). Differences are "
        "means of paired differences with their 95 % interval. FLOP count matrix products of training.",
    ]
    if read_split(results) == "validation":
        lines += [
            "",
            "Validation images are training images whose labels were withheld (or the data set's own); cells may be chosen "
            "by these results. Test was not read for this table; `hjepa ablate ... --final` reads it, once.",
        ]
    about = results["environment"]
    if about:
        lines += ["", f"hjepa {about['hjepa']} at commit {about['commit']}, torch {about['torch']}, {about['device']}."]
    return "\n".join(lines) + "\n"
