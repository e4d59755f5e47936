"""Estimate the bias of the published accuracies that comes from choosing the recipe by test accuracy.

The recipes of the presets were chosen by the test accuracies in the log of the experiments (docs/results/recipe.md).
The best of n results with noise of standard deviation s is expected to exceed its true value by at most about
``s * sqrt(2 ln n)``. The bound is reached if all recipes are equally good, so that noise alone decides. There are two
kinds of noise:

* **seed**: the spread between seeds of one recipe, pooled over the cells with several seeds in the published studies. It
  biases a row of the log, but not a new run of the chosen recipe;
* **test images**: binomial, ``sqrt(p (1 - p) / N)``. The full-length runs use the same test images, so this bias can remain.
  Treating it as independent between recipes gives an upper bound, since recipes mostly fail on the same images.

    python -m benchmarks.selection_bias --json docs/results/selection_bias.json

Nothing is trained; the numbers come from the files in docs/results.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Rows, parser, show, write

RESULTS = Path(__file__).parents[1] / "docs" / "results"
READING = "linear_probe/all"
_ROW = re.compile(r"^\| ([SCLF])\d+ \|", re.MULTILINE)
SERIES = {
    "S": "screenings on shapes",
    "C": "screenings on CIFAR-10",
    "L": "four times as long",
    "F": "full length",
}


def count_rows(log: str) -> dict[str, int]:
    """Rows of the log of the experiments, by series."""
    found = _ROW.findall(log)
    return {name: found.count(name) for name in SERIES}


def pooled_deviation(studies: list[dict[str, Any]], reading: str = READING) -> tuple[float, int]:
    """Standard deviation between seeds of one cell, and its degrees of freedom.

    Args:
        studies: contents of ``results.json`` of studies.
        reading: which accuracy.

    Raises:
        ValueError: no cell has two seeds.
    """
    square, freedom = 0.0, 0
    for study in studies:
        for cell in study.get("cells", ()):
            values = [float(run[reading]) for run in cell["runs"] if reading in run]
            if len(values) > 1:
                mean = math.fsum(values) / len(values)
                square += math.fsum((value - mean) ** 2 for value in values)
                freedom += len(values) - 1
    if not freedom:
        raise ValueError("no study has a cell with two seeds")
    return math.sqrt(square / freedom), freedom


def expected_best(n: int, rounds: int = 20_000) -> float:
    """Mean of the largest of n standard normal draws, by simulation."""
    generator = np.random.Generator(np.random.Philox(key=0))
    return float(generator.standard_normal((rounds, n)).max(axis=1).mean())


def bound(n: int) -> float:
    """Upper bound of the mean of the largest of n standard normal draws."""
    return math.sqrt(2 * math.log(n))


def bias_of_best(n: int, seed: float, accuracy: float, images: int, rounds: int) -> dict[str, float | int]:
    """Bias of the best of n results, in points.

    Args:
        n: number of results that were compared.
        seed: standard deviation between seeds, 0 to 1; 0 if the recipe is trained again with a new seed.
        accuracy: approximate accuracy of the results.
        images: number of test images.
        rounds: number of simulated draws.
    """
    binomial = math.sqrt(accuracy * (1 - accuracy) / images)
    deviation = math.hypot(seed, binomial)
    return {
        "compared": n,
        "seed_points": 100 * seed,
        "test_images_points": 100 * binomial,
        "expected_points": 100 * deviation * expected_best(n, rounds),
        "bound_points": 100 * deviation * bound(n),
    }


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Compute all cases from the published files."""
    rows = count_rows((folder / "recipe.md").read_text(encoding="utf-8"))
    kept = sorted((folder / "recipe").glob("*.json"))
    # The recipe was chosen by studies evaluated on test images; later ones name their split and chose nothing.
    found = [json.loads(file.read_text(encoding="utf-8")) for file in kept]
    studies = [study for study in found if "split" not in study]
    seed, freedom = pooled_deviation(studies)
    final = json.loads((folder / "cifar10_cpu" / "width_192" / "results.json").read_text(encoding="utf-8"))
    again = json.loads((folder / "cifar10_cpu" / "width_192" / "seed_1" / "results.json").read_text(encoding="utf-8"))
    reached, images = final["linear_probe"]["trained"], final["test_images"]
    short = rows["C"] + rows["L"]
    everything = short + rows["F"]
    return {
        "reading": READING,
        "rows": rows,
        "seed_deviation": seed,
        "degrees_of_freedom": freedom,
        "cases": {
            "best short run on CIFAR-10": bias_of_best(short, seed, 0.55, 5000, rounds),
            "best short run on shapes": bias_of_best(rows["S"], seed, 0.63, 4000, rounds),
            "best full-length run": bias_of_best(rows["F"], seed, reached, images, rounds),
            "new run of the recipe chosen from all runs on CIFAR-10": bias_of_best(
                everything, 0.0, reached, images, rounds
            ),
            "new run of the recipe chosen from the full-length runs": bias_of_best(
                rows["F"], 0.0, reached, images, rounds
            ),
        },
        "chosen": reached,
        "chosen_other_seed": again["linear_probe"]["trained"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help="folder with the published results"
    )
    given = options.parse_args(arguments)
    figures = measure(given.results, 200 if given.short else 20_000)
    table: Rows = [{"what": name, **case} for name, case in figures["cases"].items()]
    show(table)
    print(
        f"\nseeds of one recipe differ by {100 * figures['seed_deviation']:.2f} points (standard deviation, "
        f"{figures['degrees_of_freedom']} degrees of freedom); the chosen recipe has {100 * figures['chosen']:.1f}, with "
        f"another seed {100 * figures['chosen_other_seed']:.1f}"
    )
    write(given.json, "selection_bias", figures)


if __name__ == "__main__":
    main()
