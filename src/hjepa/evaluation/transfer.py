"""One model on several data sets: a results file for each, and one table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from hjepa.errors import UserError
from hjepa.evaluation.evaluate import evaluate
from hjepa.evaluation.protocols import Block
from hjepa.evaluation.protocols.wording import percent, scored_rows
from hjepa.evaluation.results import results_name
from hjepa.evaluation.table import print_block, read_split

NO_PATH = "-"


def pair(datasets: Sequence[str], paths: Sequence[str | Path]) -> list[tuple[str | None, str | Path | None]]:
    """Data sets and their paths, in the order given.

    Args:
        datasets: names; empty for the run's own data set.
        paths: as many, ``-`` for a data set that needs none; or empty.

    Raises:
        UserError: more than one data set, and another number of paths.
    """
    if len(datasets) <= 1 and len(paths) <= 1:
        return [(datasets[0] if datasets else None, _path(paths[0]) if paths else None)]
    if paths and len(paths) != len(datasets):
        raise UserError(
            f"data_path: {len(paths)} for {len(datasets)} data sets; give one for each, in the same order, "
            f"{NO_PATH} where none is needed"
        )
    return [(name, _path(path)) for name, path in zip(datasets, paths or [NO_PATH] * len(datasets), strict=True)]


def evaluate_each(
    checkpoint: str | Path,
    datasets: Sequence[tuple[str | None, str | Path | None]],
    *,
    output: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    **arguments: Any,
) -> list[dict[str, Any]]:
    """Evaluate a model on several data sets, one after the other.

    Args:
        checkpoint: as for `hjepa.evaluation.evaluate`.
        datasets: name and path of each, as `pair` gives.
        output: for one data set the results file; for several a folder for the results files. The default is the run
            folder. Data sets of the same name are numbered from the second on.
        overrides: keys that select or load images, of all of them.
        arguments: further arguments of `evaluate`.

    Returns:
        the results of every data set, in order.

    Raises:
        UserError: as `evaluate`; the results of the data sets before it are written.
    """
    if len(datasets) == 1:
        (dataset, path) = datasets[0]
        return [evaluate(checkpoint, dataset=dataset, data_path=path, output=output, overrides=overrides, **arguments)]
    folder = None if output is None else Path(output)
    if folder is not None and folder.is_file():
        raise UserError(f"output: {folder} is a file; with several data sets give a folder for their results")
    found = []
    seen: Counter[str] = Counter()
    for dataset, path in datasets:
        name = dataset or "own"
        seen[name] += 1
        label = name if seen[name] == 1 else f"{name}_{seen[name]}"
        target = None if folder is None else folder / results_name(arguments.get("split", "test"), label)
        found.append(
            evaluate(
                checkpoint,
                dataset=dataset,
                data_path=path,
                output=target,
                label=label if seen[name] > 1 else None,
                overrides=overrides,
                **arguments,
            )
        )
    return found


def transfer_block(results: Sequence[dict[str, Any]]) -> Block:
    """One column per data set and accuracy: linear probe and main k-NN."""
    columns: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(results):
        name = each["dataset"]
        if sum(other["dataset"] == name for other in results[: number + 1]) > 1:
            name = f"{name} {number + 1}"
        probe, knn = each.get("linear_probe", {}), each.get("knn", {})
        if "trained" in probe:
            columns[f"{name} linear"] = probe
        if "trained" in knn:
            columns[f"{name} k-NN-{knn['k']}"] = knn
    rows = [[label, *(percent(v) for v in values)] for label, values in scored_rows(list(columns.values()), results[0])]
    split = read_split(results[0])[0]
    notes = [
        f"{each['dataset']}: {each['train_images']} training images, {read_split(each)[1]} {split} images, "
        f"chance {percent(each['chance'])}"
        for each in results
    ]
    return Block(f"transfer: accuracy on {split} in per cent", ["features", *columns], rows if columns else [], notes)


def print_transfer(results: Sequence[dict[str, Any]], file: TextIO | None = None) -> None:
    """Print one table for all data sets."""
    print_block(transfer_block(results), sys.stdout if file is None else file)


def _path(path: str | Path) -> str | Path | None:
    return None if str(path) == NO_PATH else path
